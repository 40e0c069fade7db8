package io.github.reshard.checkpoint.dcp;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.dcp.DcpMetadata.Item;
import io.github.reshard.checkpoint.dcp.DcpMetadata.Place;
import io.github.reshard.checkpoint.dcp.DcpMetadata.Step;
import io.github.reshard.checkpoint.pickle.PickleWriter;
import io.github.reshard.checkpoint.pickle.PyObject;
import io.github.reshard.checkpoint.plan.NewFile;
import io.github.reshard.checkpoint.plan.TargetFile;
import io.github.reshard.checkpoint.state.Address;
import io.github.reshard.checkpoint.torch.DType;
import java.nio.ByteBuffer;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * A distributed checkpoint that is to be written: keys, and the containers that they name. Several
 * keys may name one container, as the two names of tied weights do.
 */
final class DcpTree {
  /** The entry of an address in a tensor without elements. */
  private static final int NO_ENTRY = -1;

  private static final int PROTOCOL = 2;

  private final String directory;
  private final SaveId id;
  private final List<Piece> pieces = new ArrayList<>();
  private final Map<String, Integer> keys = new LinkedHashMap<>();
  private final Map<String, List<Step>> paths = new LinkedHashMap<>();
  private final Map<ByteBuffer, Integer> pickles = new HashMap<>();

  /**
   * @param directory where it goes, relative to the output
   * @param id what its files are told by
   */
  DcpTree(String directory, SaveId id) {
    this.directory = directory;
    this.id = id;
  }

  /** Adds a container; its number. */
  int add(Piece piece) {
    pieces.add(piece);
    return pieces.size() - 1;
  }

  /** The container of an object without tensors; equal ones share it. */
  int addValue(PyObject value) {
    byte[] pickle = PickleWriter.write(value, PROTOCOL);
    return pickles.computeIfAbsent(ByteBuffer.wrap(pickle), any -> add(new Piece.OfPickle(pickle)));
  }

  /**
   * Lets a key name a container.
   *
   * @throws RefusedException if another one has the same flat key
   */
  void put(DcpDialect.Key key, int piece) {
    String flat = key.flat();
    if (keys.putIfAbsent(flat, piece) != null) {
      throw new RefusedException(
          directory,
          "two things would have the key '%s' in the distributed checkpoint. Rename one of them, or choose another --dialect."
              .formatted(flat));
    }
    paths.put(flat, key.path());
  }

  boolean isEmpty() {
    return keys.isEmpty();
  }

  /**
   * The files of a tree.
   *
   * @param targets the data files, and {@code .metadata} behind them
   * @param addresses where the elements of each container begin
   */
  record Planned(List<TargetFile> targets, List<Address> addresses) {}

  /**
   * Lays it out.
   *
   * @param firstTarget the index that its first file will have in the plan
   * @param files into how many data files, or fewer if there are not as many containers
   */
  Planned plan(int firstTarget, int files) {
    // Files with longer names have a few bytes more.
    long all = 0;
    for (Piece piece : pieces) {
      all = Math.addExact(all, piece.layout(id.archive(name(0))).totalBytes());
    }
    List<TargetFile> targets = new ArrayList<>();
    List<Address> addresses = new ArrayList<>();
    List<Place> places = new ArrayList<>();
    long done = 0;
    for (int p = 0; p < pieces.size(); ) {
      int number = targets.size();
      String name = name(number);
      String archive = id.archive(name);
      // What is left is shared evenly by the files that are left.
      long share = (all - done) / Math.max(1, files - number);
      List<Piece> inFile = new ArrayList<>();
      List<TargetFile.Entry> entries = new ArrayList<>();
      long at = 0;
      long bytes = pieces.get(p).layout(archive).totalBytes();
      do {
        Piece piece = pieces.get(p);
        places.add(new Place(name, at, bytes));
        addresses.add(address(piece, archive, firstTarget + number, at, entries));
        inFile.add(piece);
        at += bytes;
        p++;
        bytes = p < pieces.size() ? pieces.get(p).layout(archive).totalBytes() : 0;
      } while (p < pieces.size() && (number == files - 1 || at + bytes / 2 <= share));
      done += at;
      targets.add(
          new TargetFile(
              directory + "/" + name,
              at,
              new DataFileRecipe(archive, inFile),
              List.copyOf(entries)));
    }
    byte[] metadata = MetadataWriter.write(metadata(places));
    targets.add(
        new TargetFile(
            directory + "/" + DcpMetadata.FILE_NAME,
            metadata.length,
            new NewFile(metadata),
            List.of()));
    return new Planned(targets, addresses);
  }

  private static String name(int number) {
    return "__%d_0%s".formatted(number, DcpMetadata.DATA_SUFFIX);
  }

  private static Address address(
      Piece piece, String archive, int target, long begin, List<TargetFile.Entry> entries) {
    if (piece instanceof Piece.OfPickle) {
      return new Address(target, NO_ENTRY, begin);
    }
    long payload = begin + Container.payloadOffset(piece.layout(archive));
    if (piece.payloadBytes() == 0) {
      return new Address(target, NO_ENTRY, payload);
    }
    entries.add(
        new TargetFile.Entry(Integer.toString(entries.size()), payload, piece.payloadBytes()));
    return new Address(target, entries.size() - 1, payload);
  }

  private DcpMetadata metadata(List<Place> places) {
    Map<String, Item> items = new LinkedHashMap<>();
    keys.forEach((key, piece) -> items.put(key, item(pieces.get(piece), places.get(piece))));
    return new DcpMetadata(items, paths, id.text());
  }

  private static Item item(Piece piece, Place place) {
    if (piece instanceof Piece.OfSource tensor) {
      return DcpMetadata.Tensor.whole(tensor.dtype(), tensor.shape(), place);
    }
    return piece instanceof Piece.Scalar scalar
        ? DcpMetadata.Tensor.whole(scalar.dtype(), List.of(), place)
        : new DcpMetadata.Value(place);
  }

  /** A 0-d tensor of type float32. */
  static Piece scalar(float value) {
    return new Piece.Scalar(
        DType.FLOAT32,
        ByteBuffer.allocate(Float.BYTES)
            .order(java.nio.ByteOrder.LITTLE_ENDIAN)
            .putFloat(value)
            .array());
  }
}
