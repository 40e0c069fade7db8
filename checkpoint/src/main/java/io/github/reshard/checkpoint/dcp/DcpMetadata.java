package io.github.reshard.checkpoint.dcp;

import io.github.reshard.checkpoint.torch.DType;
import java.io.Serializable;
import java.util.ArrayList;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;

/**
 * What {@code .metadata} says (PyTorch 2.6 and 2.9, torch/distributed/checkpoint/metadata.py,
 * {@code Metadata}).
 *
 * @param items what is stored, by its flat key, in the order of the file
 * @param paths where in the nested state dict each key stands ({@code planner_data}); empty if the
 *     file does not say
 * @param saveId what tells this save from others; empty if the file does not say
 */
public record DcpMetadata(Map<String, Item> items, Map<String, List<Step>> paths, String saveId)
    implements Serializable {
  /** The file that commits a checkpoint: written last. */
  public static final String FILE_NAME = ".metadata";

  /** How the names of data files end. */
  public static final String DATA_SUFFIX = ".distcp";

  public DcpMetadata {
    items = Collections.unmodifiableMap(new LinkedHashMap<>(items));
    paths = Collections.unmodifiableMap(new LinkedHashMap<>(paths));
  }

  /** What stands under a key. */
  public sealed interface Item extends Serializable {}

  /**
   * A tensor, whose chunks hold each element once.
   *
   * @param dtype the type of an element
   * @param shape elements per dimension; empty for a 0-d tensor
   * @param chunks its boxes; those without an element are left out
   */
  public record Tensor(DType dtype, List<Long> shape, List<Chunk> chunks) implements Item {
    public Tensor {
      shape = List.copyOf(shape);
      chunks = List.copyOf(chunks);
    }

    /** A tensor in one piece. */
    static Tensor whole(DType dtype, List<Long> shape, Place place) {
      return new Tensor(dtype, shape, List.of(Chunk.whole(shape, place)));
    }
  }

  /**
   * Any other object, pickled by {@code torch.save}.
   *
   * @param place where
   */
  public record Value(Place place) implements Item {}

  /**
   * A box of a tensor, row-major in a storage of its own.
   *
   * @param offsets its first element, per dimension
   * @param sizes its elements per dimension
   * @param place where its container is
   */
  public record Chunk(List<Long> offsets, List<Long> sizes, Place place) implements Serializable {
    public Chunk {
      offsets = List.copyOf(offsets);
      sizes = List.copyOf(sizes);
    }

    static Chunk whole(List<Long> shape, Place place) {
      return new Chunk(Collections.nCopies(shape.size(), 0L), shape, place);
    }

    /** How many elements it holds; fewer than 2^63, as of every chunk that was read. */
    public long elements() {
      return elements(sizes);
    }

    static long elements(List<Long> sizes) {
      long elements = 1;
      for (long size : sizes) {
        if (size == 0) {
          return 0;
        }
      }
      for (long size : sizes) {
        elements = Math.multiplyExact(elements, size);
      }
      return elements;
    }
  }

  /**
   * A container in a data file.
   *
   * @param file the name of the file, beside {@code .metadata}
   * @param offset of the container, in bytes from the start of the file
   * @param bytes the length of the container
   */
  public record Place(String file, long offset, long bytes) implements Serializable {}

  /** A step of a path into nested dicts and lists. */
  public sealed interface Step extends Serializable {
    /** A key of a dict. */
    record Key(String name) implements Step {}

    /** A position in a list. */
    record Index(long position) implements Step {}

    /** Keys of dicts. */
    static List<Step> keys(String... names) {
      List<Step> steps = new ArrayList<>();
      for (String name : names) {
        steps.add(new Key(name));
      }
      return steps;
    }
  }

  /** The tensor {@code key}, if there is one. */
  public Optional<Tensor> tensor(String key) {
    return items.get(key) instanceof Tensor tensor ? Optional.of(tensor) : Optional.empty();
  }

  /** The object {@code key}, if there is one. */
  public Optional<Value> value(String key) {
    return items.get(key) instanceof Value value ? Optional.of(value) : Optional.empty();
  }
}
