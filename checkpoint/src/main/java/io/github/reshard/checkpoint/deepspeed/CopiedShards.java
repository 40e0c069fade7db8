package io.github.reshard.checkpoint.deepspeed;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.format.Addresses;
import io.github.reshard.checkpoint.format.SourceReading;
import io.github.reshard.checkpoint.plan.Evidence;
import io.github.reshard.checkpoint.plan.SourceFile;
import io.github.reshard.checkpoint.state.Address;
import io.github.reshard.checkpoint.state.ParamId;
import io.github.reshard.checkpoint.state.ParameterSet;
import io.github.reshard.checkpoint.state.PartitionedModel.Partition;
import io.github.reshard.checkpoint.state.States;
import io.github.reshard.checkpoint.storage.NonZeroElements;
import io.github.reshard.checkpoint.storage.RangedFile;
import io.github.reshard.checkpoint.torch.DType;
import io.github.reshard.checkpoint.torch.TorchFile;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Set;
import java.util.SortedMap;
import java.util.TreeMap;
import java.util.zip.CRC32;

/**
 * Finds a rank's file that lies under two names: all that is partitioned in it is, byte for byte,
 * what the file of another rank holds. {@code .data/serialization_id} would say no more: PyTorch
 * makes it of the names and the CRCs of the records (caffe2/serialize/inline_container.cc, {@code
 * writeSerializationId}), so that equal contents have equal ones.
 *
 * <p>Equal partitions are not always copies. Before the first step whole layers may be alike
 * ({@code nn.TransformerEncoder} and DeepSpeed's experts are made by {@code deepcopy}), their
 * moments are zero; weights of a norm are all one; padding is all zero. What an optimizer has
 * gathered from gradients is never alike: so a copy is what has the same moments, and not all of
 * one value. Where there are no moments, master weights that were trained tell the same, and pieces
 * of frozen weights if they hold more than a few values.
 */
public record CopiedShards(SourceReading reading) {
  private static final int BLOCK = 1 << 20;

  /** A pattern of ones and zeros may come again; that many values do not. */
  private static final int MANY_VALUES = 8;

  /** A partition of a file. */
  private record Held(boolean expert, Partition partition, DType dtype, Address at) {
    String what() {
      return "%s %d %s".formatted(expert, partition.bucket(), partition.state());
    }
  }

  /** The partitions of a file, in an order that is the same for all ranks. */
  private record Shard(int file, int rank, List<Held> held) {}

  /**
   * Looks through the partitions of all models of the reading.
   *
   * @param trained whether the optimizer has made a step, as far as files say that
   * @return what is proven; empty if there is one file, which has no other
   * @throws RefusedException if the file of one rank is there for another one, too
   */
  public Optional<Evidence> refuse(boolean trained) throws IOException {
    int files = 0;
    Set<String> alike = new HashSet<>();
    for (List<Shard> ofMpRank : shards()) {
      Map<List<Object>, Shard> seen = new HashMap<>();
      Map<List<Object>, Boolean> telling = new HashMap<>();
      for (Shard shard : ofMpRank) {
        files++;
        List<Object> contents = contents(shard);
        Shard other = seen.putIfAbsent(contents, shard);
        if (other != null && other.rank() != shard.rank()) {
          // Of many that are alike one is read.
          if (!telling.containsKey(contents)) {
            telling.put(contents, tells(shard, trained));
          }
          if (telling.get(contents)) {
            throw new RefusedException(
                stat(shard),
                "holds the same bytes as %s. One of them is a copy, and the shard of rank %d or %d is missing."
                    .formatted(name(other), other.rank(), shard.rank()));
          }
          alike.add(name(other));
          alike.add(name(shard));
        }
      }
    }
    if (files < 2) {
      return Optional.empty();
    }
    return Optional.of(
        new Evidence(
            "no rank's file is a copy of another's",
            "checksums of the partitions",
            files - alike.size(),
            alike.stream().sorted().toList(),
            alike.isEmpty()
                ? ""
                : "what is partitioned in them is alike, which may be right before the first"
                    + " step"));
  }

  private String stat(Shard shard) {
    return reading.sources().get(shard.file()).stat().path();
  }

  private String name(Shard shard) {
    return reading.sources().get(shard.file()).stat().name();
  }

  private List<List<Shard>> shards() {
    SortedMap<Integer, Map<Integer, Shard>> byMpRank = new TreeMap<>();
    for (ParameterSet model : reading.parameters()) {
      boolean expert = model.expertRank() != ParamId.NO_EXPERT;
      model
          .partitions()
          .forEach(
              (partition, at) -> {
                if (at.entry() != Addresses.NO_ENTRY) {
                  DType dtype = model.states().get(group(model, partition)).get(partition.state());
                  byMpRank
                      .computeIfAbsent(model.mpRank(), k -> new LinkedHashMap<>())
                      .computeIfAbsent(
                          at.file(), f -> new Shard(f, partition.rank(), new ArrayList<>()))
                      .held()
                      .add(new Held(expert, partition, dtype, at));
                }
              });
    }
    List<List<Shard>> all = new ArrayList<>();
    for (Map<Integer, Shard> shards : byMpRank.values()) {
      List<Shard> ofMpRank = new ArrayList<>(shards.values());
      ofMpRank.forEach(shard -> shard.held().sort((a, b) -> a.what().compareTo(b.what())));
      ofMpRank.sort((a, b) -> Integer.compare(a.rank(), b.rank()));
      all.add(ofMpRank);
    }
    return all;
  }

  private static int group(ParameterSet model, Partition partition) {
    return model.layout().groupOf(partition.bucket());
  }

  private List<Object> contents(Shard shard) throws IOException {
    SourceFile source = reading.sources().get(shard.file());
    List<Object> contents = new ArrayList<>();
    for (Held held : shard.held()) {
      TorchFile.Entry entry = source.entries().get(held.at().entry());
      contents.add(
          List.of(
              held.what(),
              held.at().offset() - entry.payloadOffset(),
              entry.bytes(),
              source.hasCrcs() ? entry.crc32() : crc(source, entry)));
    }
    return contents;
  }

  /** The checksum that a file saved without CRCs does not have. */
  private int crc(SourceFile source, TorchFile.Entry entry) throws IOException {
    CRC32 crc = new CRC32();
    ByteBuffer block = ByteBuffer.allocate((int) Math.min(BLOCK, entry.bytes()));
    try (RangedFile open = reading.store().open(source.stat())) {
      for (long at = 0; at < entry.bytes(); at += block.limit()) {
        block.clear().limit((int) Math.min(block.capacity(), entry.bytes() - at));
        open.readFully(entry.payloadOffset() + at, block);
        crc.update(block.flip());
      }
    }
    return (int) crc.getValue();
  }

  /** Whether what the shard holds cannot be alike on two ranks. */
  private boolean tells(Shard shard, boolean trained) throws IOException {
    for (Held held : shard.held()) {
      int needed = valuesNeeded(held, shard, trained);
      if (needed > 0 && values(held, needed) >= needed) {
        return true;
      }
    }
    return false;
  }

  /** How many values {@code held} must have to tell ranks apart; 0 if it cannot. */
  private static int valuesNeeded(Held held, Shard shard, boolean trained) {
    return switch (held.partition().state()) {
      case States.FROZEN -> MANY_VALUES;
      case States.MASTER -> trained && hasMastersOnly(shard) ? MANY_VALUES : 0;
      default -> 2;
    };
  }

  private static boolean hasMastersOnly(Shard shard) {
    return shard.held().stream().allMatch(h -> h.partition().state().equals(States.MASTER));
  }

  /** How many different values but zero, which is padding, there are, up to {@code enough}. */
  private int values(Held held, int enough) throws IOException {
    SourceFile source = reading.sources().get(held.at().file());
    TorchFile.Entry entry = source.entries().get(held.at().entry());
    return NonZeroElements.different(
        reading.store(),
        source.stat(),
        held.at().offset(),
        entry.payloadOffset() + entry.bytes(),
        held.dtype().bytes(),
        enough);
  }
}
