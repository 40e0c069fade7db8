package io.github.reshard.pipeline.storage;

import io.github.reshard.checkpoint.OutputException;
import io.github.reshard.checkpoint.storage.Leftovers;
import io.github.reshard.checkpoint.storage.LockHolder;
import io.github.reshard.checkpoint.storage.OutputHeldException;
import io.github.reshard.checkpoint.storage.PositionalFile;
import io.github.reshard.checkpoint.storage.TargetStore;
import io.github.reshard.pipeline.storage.ObjectStore.Found;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Set;
import java.util.SortedMap;
import java.util.TreeMap;
import java.util.UUID;

/**
 * A checkpoint in a bucket, where nothing can be written in place or renamed. Everything grows
 * under {@code OUTPUT/.reshard-TAG.unpublished/RUN/}:
 *
 * <ul>
 *   <li>{@code parts/FILE.parts/OFFSET.run}: a run of bytes of a file that begins at {@code OFFSET}
 *       (16 hexadecimal digits), as one worker wrote it;
 *   <li>{@code parts/FILE.parts/OFFSET.small}: short runs in one object, each with its offset and
 *       length before it, since an object for each would cost a request for each;
 *   <li>{@code files/FILE}: the whole file, put together from these inside the store;
 *   <li>{@code plan}: what the job keeps for its workers.
 * </ul>
 *
 * <p>Publishing copies the files to their names inside the store and writes {@code latest} last.
 * {@code RUN} is drawn when the job is planned and travels with it: whatever a worker of a run that
 * died still writes lies in a directory of its own and is removed by the next run of the same tag.
 */
final class ObjectTargetStore implements TargetStore {
  private static final long serialVersionUID = 1L;

  /** Runs up to this length share an object, unless the property says otherwise. */
  private static final int DEFAULT_SMALL_BYTES = 256 << 10;

  /** For tests: small files then go the way of large ones. */
  static final String SMALL_PROPERTY = "reshard.smallRunBytes";

  /** Short runs are put down when they are this many bytes together. */
  private static final int MOST_SMALL_BYTES = 8 << 20;

  private final ObjectStore store;
  private final String base;
  private final String tag;
  private final boolean overwrite;
  private final String latest;
  private final int smallBytes = Integer.getInteger(SMALL_PROPERTY, DEFAULT_SMALL_BYTES);
  private final String run = UUID.randomUUID().toString().substring(0, 8);

  /**
   * @param directory the output, a name in the store without a slash at its end; empty for the
   *     bucket itself
   * @param latest the file that names the published tag
   */
  ObjectTargetStore(
      ObjectStore store, String directory, String tag, boolean overwrite, String latest) {
    this.store = store;
    this.base = directory.isEmpty() ? "" : directory + "/";
    this.tag = tag;
    this.overwrite = overwrite;
    this.latest = latest;
  }

  private String staging() {
    return base + Leftovers.name(tag, "unpublished") + "/";
  }

  private String mine() {
    return staging() + run + "/";
  }

  private String parts(String path) {
    return mine() + "parts/" + path + ".parts/";
  }

  private String files() {
    return mine() + "files/";
  }

  private String plan() {
    return mine() + "plan";
  }

  private String marker() {
    return base + Leftovers.name(tag, "publishing");
  }

  private BucketLock lock() {
    return new BucketLock(store, base + Leftovers.name(tag, "lock"));
  }

  @Override
  public void begin() throws IOException {
    requireReplaceable();
    lock().acquire(store.uri(base + tag), run);
    try {
      // Another run may have published it before this one had the output.
      requireReplaceable();
      store.delete(store.list(staging()));
      // Whoever may not write learns it now.
      store.put(mine() + "begun", new byte[0]);
    } catch (IOException | RuntimeException e) {
      lock().release(run);
      throw e;
    }
  }

  private void requireReplaceable() throws IOException {
    String tagPrefix = base + tag + "/";
    if (!overwrite && !store.list(tagPrefix).isEmpty() && store.find(marker()).isEmpty()) {
      throw new OutputException(
          store.uri(tagPrefix), "the output already holds this tag; --overwrite replaces it.");
    }
  }

  @Override
  public void keep(byte[] content) throws IOException {
    store.put(plan(), content);
  }

  @Override
  public byte[] kept() throws IOException {
    Optional<Found> plan = store.find(plan());
    if (plan.isEmpty()) {
      throw new OutputException(
          store.uri(plan()),
          "is gone. Another run with the same output and tag has begun since, or something deleted it; run again.");
    }
    return store.read(plan.get());
  }

  @Override
  public boolean ascending() {
    return true;
  }

  @Override
  public PositionalFile open(String path) {
    return new Part(path);
  }

  private static String offsetName(long offset) {
    return "%016x".formatted(offset);
  }

  private static long offsetIn(String name) {
    String last = name.substring(name.lastIndexOf('/') + 1);
    return Long.parseUnsignedLong(last.substring(0, last.indexOf('.')), 16);
  }

  /** What one worker writes of a file; it becomes objects. */
  private final class Part implements PositionalFile {
    private final String path;
    private long runOffset = -1;
    private long at;
    private final ByteBuffer head = ByteBuffer.allocate(smallBytes);
    private ObjectStore.Upload upload;
    private final List<Piece> small = new ArrayList<>();
    private long smallTotal;

    Part(String path) {
      this.path = path;
    }

    @Override
    public void write(long position, ByteBuffer source) throws IOException {
      if (!source.hasRemaining()) {
        return;
      }
      if (runOffset < 0 || position != at) {
        if (position < at) {
          throw new IllegalStateException(
              "%s: byte %d after byte %d; objects are written forwards"
                  .formatted(path, position, at));
        }
        endRun();
        runOffset = position;
      }
      at = position + source.remaining();
      if (upload == null && source.remaining() > head.remaining()) {
        upload =
            store.create(
                parts(path) + offsetName(runOffset) + ".run", Map.of(ObjectStore.RUN, run));
        upload.write(head.flip());
      }
      if (upload == null) {
        head.put(source);
      } else {
        upload.write(source);
      }
    }

    private void endRun() throws IOException {
      if (upload != null) {
        upload.complete();
        upload = null;
      } else if (head.position() > 0) {
        byte[] bytes = new byte[head.flip().remaining()];
        head.get(bytes);
        small.add(new Piece(runOffset, bytes));
        smallTotal += bytes.length;
        if (smallTotal > MOST_SMALL_BYTES) {
          putDownSmall();
        }
      }
      head.clear();
    }

    private void putDownSmall() throws IOException {
      if (small.isEmpty()) {
        return;
      }
      ByteBuffer all =
          ByteBuffer.allocate(Math.toIntExact(smallTotal + (long) Piece.HEADER * small.size()));
      small.forEach(
          piece -> all.putLong(piece.offset()).putInt(piece.bytes().length).put(piece.bytes()));
      ObjectStore.Upload object =
          store.create(
              parts(path) + offsetName(small.get(0).offset()) + ".small",
              Map.of(ObjectStore.RUN, run));
      object.write(all.flip());
      object.complete();
      small.clear();
      smallTotal = 0;
    }

    @Override
    public void complete() throws IOException {
      endRun();
      putDownSmall();
      runOffset = -1;
    }

    @Override
    public void close() {
      if (upload != null) {
        upload.abandon();
        upload = null;
      }
    }
  }

  /** Some bytes of a file. */
  @SuppressWarnings("ArrayRecordComponent") // Handed on, never compared.
  private record Piece(long offset, byte[] bytes) {
    /** Bytes before each piece in an object of small pieces: its offset and its length. */
    static final int HEADER = Long.BYTES + Integer.BYTES;

    static List<Piece> parse(byte[] object) {
      List<Piece> pieces = new ArrayList<>();
      ByteBuffer in = ByteBuffer.wrap(object);
      while (in.hasRemaining()) {
        long offset = in.getLong();
        byte[] bytes = new byte[in.getInt()];
        in.get(bytes);
        pieces.add(new Piece(offset, bytes));
      }
      return pieces;
    }
  }

  /** A run of a file: an object, or bytes that will be part of one. */
  private record Stretch(long offset, long bytes, Found object, Piece piece) {
    long end() {
      return offset + bytes;
    }
  }

  @Override
  public void finish(String path, long bytes, boolean executable) throws IOException {
    Map<String, String> metadata = new HashMap<>();
    metadata.put(ObjectStore.RUN, run);
    if (executable) {
      metadata.put(ObjectStore.POSIX_MODE, "755");
    }
    if (!isWhole(path, bytes)) {
      try {
        putTogether(path, bytes, metadata);
      } catch (IOException | RuntimeException e) {
        // Another worker may have finished the same file and removed its parts meanwhile.
        if (!isWhole(path, bytes)) {
          throw e;
        }
      }
    }
    try {
      store.delete(store.list(parts(path)));
    } catch (IOException | OutputException e) {
      // The file is whole. Publishing removes its parts again, and says so if it cannot either.
      return;
    }
  }

  private boolean isWhole(String path, long bytes) throws IOException {
    Optional<Found> whole = store.find(files() + path);
    return whole.isPresent() && whole.get().bytes() == bytes;
  }

  private void putTogether(String path, long bytes, Map<String, String> metadata)
      throws IOException {
    List<Stretch> stretches = stretches(path, bytes);
    boolean onlyPieces = stretches.stream().allMatch(s -> s.object() == null);
    if (onlyPieces) {
      upload(files() + path, stretches, metadata);
      return;
    }
    List<Found> components = new ArrayList<>();
    List<Stretch> gap = new ArrayList<>();
    for (Stretch stretch : stretches) {
      if (stretch.object() == null) {
        gap.add(stretch);
        continue;
      }
      addGap(path, gap, components);
      components.add(stretch.object());
    }
    addGap(path, gap, components);
    store.concatenate(files() + path, components, metadata, parts(path));
  }

  private void addGap(String path, List<Stretch> gap, List<Found> components) throws IOException {
    if (gap.isEmpty()) {
      return;
    }
    String name = parts(path) + offsetName(gap.get(0).offset()) + ".gap";
    upload(name, gap, Map.of(ObjectStore.RUN, run));
    components.add(
        store
            .find(name)
            .orElseThrow(() -> new IOException(store.uri(name) + " was written and is gone")));
    gap.clear();
  }

  private void upload(String name, List<Stretch> pieces, Map<String, String> metadata)
      throws IOException {
    ObjectStore.Upload upload = store.create(name, metadata);
    for (Stretch stretch : pieces) {
      upload.write(ByteBuffer.wrap(stretch.piece().bytes()));
    }
    upload.complete();
  }

  /** Everything that was written of a file, in order and without holes. */
  private List<Stretch> stretches(String path, long bytes) throws IOException {
    List<Stretch> found = new ArrayList<>();
    for (Found object : store.list(parts(path))) {
      if (object.name().endsWith(".run")) {
        found.add(new Stretch(offsetIn(object.name()), object.bytes(), object, null));
      } else if (object.name().endsWith(".small")) {
        for (Piece piece : Piece.parse(store.read(object))) {
          found.add(new Stretch(piece.offset(), piece.bytes().length, null, piece));
        }
      }
    }
    found.sort(Comparator.comparingLong(Stretch::offset));
    long at = 0;
    for (Stretch stretch : found) {
      requireAt(path, at, stretch.offset());
      at = stretch.end();
    }
    requireAt(path, at, bytes);
    return found;
  }

  private void requireAt(String path, long expected, long found) {
    if (expected != found) {
      throw new OutputException(
          store.uri(files() + path),
          "expected what was written to go on at byte %d, found it at byte %d. Something else writes to or removes from %s"
              .formatted(expected, found, store.uri(parts(path))));
    }
  }

  @Override
  public boolean publish(List<String> paths, String manifest, byte[] content) throws IOException {
    Map<String, Found> staged = new HashMap<>();
    store.list(files()).forEach(object -> staged.put(object.name(), object));
    Set<String> finals = new HashSet<>();
    List<Copy> copies = new ArrayList<>();
    for (String path : paths) {
      String name = base + path;
      finals.add(name);
      if (path.equals(manifest)) {
        continue;
      }
      Found from = staged.get(files() + path);
      if (from != null) {
        copies.add(new Copy(from, name));
      } else {
        requirePublished(path, name);
      }
    }
    if (copies.isEmpty()) {
      // All is done, unless a zombie of this run took `latest` away to do it again, and died.
      if (store.find(base + latest).isEmpty()) {
        store.put(base + latest, tag.getBytes(StandardCharsets.UTF_8));
      }
      return true;
    }
    lock().requireHeld(store.uri(base + tag), run);
    store.put(marker(), new byte[0]);
    Optional<Found> pointer = store.find(base + latest);
    if (pointer.isPresent()
        && new String(store.read(pointer.get()), StandardCharsets.UTF_8).strip().equals(tag)) {
      store.delete(List.of(pointer.get()));
    }
    List<Found> old = new ArrayList<>(store.list(base + tag + "/"));
    old.removeIf(object -> finals.contains(object.name()));
    store.delete(old);
    InParallel.forEach(copies, copy -> store.copy(copy.from(), copy.to()));
    store.put(base + manifest, content);
    store.put(base + latest, tag.getBytes(StandardCharsets.UTF_8));
    return clear();
  }

  /** Removes what is left now that the output is whole: a failure changes nothing about that. */
  private boolean clear() {
    boolean cleared = true;
    // The files go last: while they are there, publishing can be done again.
    for (String prefix : List.of(marker(), mine() + "parts/", mine())) {
      cleared = cleared && removed(() -> store.delete(store.list(prefix)));
    }
    return removed(() -> lock().release(run)) && cleared;
  }

  /** Some objects that are not needed any more. */
  private interface Removal {
    void run() throws IOException;
  }

  private static boolean removed(Removal removal) {
    try {
      removal.run();
      return true;
    } catch (IOException | OutputException e) {
      return false;
    }
  }

  @Override
  public void abandon() throws IOException {
    if (store.find(marker()).isEmpty()) {
      store.delete(store.list(mine()));
    }
    lock().release(run);
  }

  /**
   * Removes what runs that died left in {@code directory}.
   *
   * @throws OutputException if something is half published
   */
  static List<Leftovers.Removed> removeLeftovers(ObjectStore store, String directory)
      throws IOException {
    String base = directory.isEmpty() ? "" : directory + "/";
    SortedMap<String, List<Found>> left = new TreeMap<>();
    for (Found object : store.list(base + ".reshard-")) {
      String inside = object.name().substring(base.length());
      String name = inside.substring(0, (inside + "/").indexOf('/'));
      if (Leftovers.isOne(name)) {
        left.computeIfAbsent(name, n -> new ArrayList<>()).add(object);
      }
    }
    for (String name : left.keySet()) {
      if (name.endsWith(".lock")) {
        Optional<LockHolder> holder = new BucketLock(store, base + name).livingHolder();
        if (holder.isPresent()) {
          throw new OutputHeldException(store.uri(directory), holder.get().describe());
        }
      }
    }
    Set<String> whole = new HashSet<>();
    for (String pointer : List.of(LATEST, LATEST_UNIVERSAL)) {
      Optional<Found> found = store.find(base + pointer);
      if (found.isPresent()) {
        whole.add(new String(store.read(found.get()), StandardCharsets.UTF_8).strip());
      }
    }
    Leftovers.requireNoneHalfPublished(store.uri(directory), left.keySet(), whole);
    List<Leftovers.Removed> removed = new ArrayList<>();
    for (Map.Entry<String, List<Found>> one : left.entrySet()) {
      store.delete(one.getValue());
      removed.add(
          new Leftovers.Removed(
              store.uri(base + one.getKey()),
              one.getValue().size(),
              one.getValue().stream().mapToLong(Found::bytes).sum()));
    }
    return removed;
  }

  private record Copy(Found from, String to) {}

  /** What is not staged any more was published by an earlier attempt of this very run. */
  private void requirePublished(String path, String name) throws IOException {
    Optional<Found> published = store.find(name);
    String by = published.map(f -> f.metadata().getOrDefault(ObjectStore.RUN, run)).orElse("");
    if (!by.equals(run)) {
      throw new OutputException(
          store.uri(files() + path),
          "is gone, so the tag was not published. Another run with the same output and tag has begun since; let one finish, then run again.");
    }
  }
}
