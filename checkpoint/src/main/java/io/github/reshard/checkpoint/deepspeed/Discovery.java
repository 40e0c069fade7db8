package io.github.reshard.checkpoint.deepspeed;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.deepspeed.CheckpointFiles.Carried;
import io.github.reshard.checkpoint.storage.FileStat;
import io.github.reshard.checkpoint.storage.Leftovers;
import io.github.reshard.checkpoint.storage.RangedFile;
import io.github.reshard.checkpoint.storage.SourceStore;
import io.github.reshard.checkpoint.storage.TargetStore;
import io.github.reshard.checkpoint.torch.PickledValue;
import io.github.reshard.checkpoint.torch.TorchFile;
import java.io.FileNotFoundException;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.NoSuchFileException;
import java.nio.file.NotDirectoryException;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.List;
import java.util.Optional;
import java.util.SortedMap;
import java.util.TreeMap;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/** Finds the checkpoint that a user means, and what lies around it. */
public final class Discovery {
  public static final String LATEST = "latest";

  /** What Hugging Face Trainer calls the directories it saves into. */
  private static final Pattern TRAINER = Pattern.compile("checkpoint-(\\d{1,18})");

  private final SourceStore store;
  private final String directory;

  private Discovery(SourceStore store, String directory) {
    this.store = store;
    this.directory = directory;
  }

  static CheckpointFiles of(SourceStore store, String directory, Optional<String> tag)
      throws IOException {
    String named = withoutSlashes(directory);
    Discovery discovery = new Discovery(store, named);
    SourceStore.Listing top = discovery.list(named);
    if (tag.isEmpty() && isTag(top) && !has(top, LATEST)) {
      Optional<Discovery> above = discovery.above();
      if (above.isPresent()) {
        String name = named.substring(named.lastIndexOf('/') + 1);
        return above.get().files(above.get().list(above.get().directory), "--input", name);
      }
    }
    return tag.isPresent()
        ? discovery.files(top, "--tag", tag.get())
        : discovery.files(top, "'latest'", discovery.latest(top));
  }

  private static String withoutSlashes(String directory) {
    int end = directory.length();
    while (end > 1 && directory.charAt(end - 1) == '/' && directory.charAt(end - 2) != '/') {
      end--;
    }
    while (end > 1
        && directory.charAt(end - 1) == '/'
        && !directory.substring(0, end).endsWith("://")) {
      end--;
    }
    return directory.substring(0, end);
  }

  /** The directory above that of a tag; none where the text of the path does not tell it. */
  private Optional<Discovery> above() {
    int slash = directory.lastIndexOf('/');
    String name = directory.substring(slash + 1);
    if (name.isEmpty()
        || name.equals(".")
        || name.equals("..")
        || directory.endsWith("://" + name)) {
      return Optional.empty();
    }
    String parent = slash < 0 ? "." : slash == 0 ? "/" : directory.substring(0, slash);
    return Optional.of(new Discovery(store, parent));
  }

  /**
   * @param saysSo where the tag's name is from
   */
  private CheckpointFiles files(SourceStore.Listing top, String saysSo, String tag)
      throws IOException {
    String tagDirectory = requireTag(top, saysSo, tag);
    CheckpointFiles.Sorted sorted = new CheckpointFiles.Sorted();
    SourceStore.Listing inTag = list(tagDirectory);
    for (FileStat file : inTag.files()) {
      sorted.add(tag, file);
    }
    for (String sub : inTag.directories()) {
      carryTree(store.child(tagDirectory, sub), tag + "/" + sub, sorted.others);
    }
    List<Carried> beside = new ArrayList<>();
    for (FileStat file : top.files()) {
      if (!TargetStore.POINTERS.contains(file.name()) && !Leftovers.isOne(file.name())) {
        beside.add(new Carried(file.name(), file));
      }
    }
    for (String sub : top.directories()) {
      if (!Leftovers.isOne(sub)) {
        carryBeside(store.child(directory, sub), sub, beside);
      }
    }
    boolean sequence = isSequenceParallel(sorted);
    return new CheckpointFiles(
        directory,
        tag,
        sorted.models,
        sequence ? underOneMpRank(sorted.rankModels) : sorted.rankModels,
        sequence ? underOneMpRank(sorted.optimizers) : sorted.optimizers,
        sorted.layers,
        sorted.experts,
        sorted.others,
        beside);
  }

  /** A tag may be a path, such as {@code epoch_1/step_10}. */
  private String requireTag(SourceStore.Listing top, String saysSo, String tag) throws IOException {
    SourceStore.Listing listing = top;
    String at = directory;
    for (String step : tag.split("/", -1)) {
      if (step.isEmpty() || step.equals(".") || step.equals("..")) {
        throw new RefusedException(
            directory,
            "%s names the tag '%s', which is no directory below this one".formatted(saysSo, tag));
      }
      if (!listing.directories().contains(step)) {
        throw new RefusedException(
            at,
            "%s names the tag '%s', but there is no such directory; found %s"
                .formatted(saysSo, tag, listing.directories()));
      }
      at = store.child(at, step);
      listing = list(at);
    }
    return at;
  }

  /**
   * Whether the ranks of a run with sequence parallelism named their files after {@code
   * mpu.get_model_parallel_rank()}, which counts the sequence, as before DeepSpeed's change 8226
   * (after 0.18.2): {@code zero_pp_rank_1_mp_rank_01}, though all are ranks of one partitioning and
   * the model files say that {@code mp_world_size} is 1.
   */
  private boolean isSequenceParallel(CheckpointFiles.Sorted sorted) throws IOException {
    if (sorted.optimizers.size() < 2
        || sorted.models.size() > 1
        || underOneMpRank(sorted.optimizers).size() > 1) {
      return false;
    }
    List<FileStat> models = new ArrayList<>(sorted.models.values());
    sorted.rankModels.values().forEach(ranks -> models.addAll(ranks.values()));
    for (FileStat model : models) {
      TorchFile file;
      try (RangedFile open = store.open(model)) {
        file = TorchFile.read(open);
      }
      PickledValue root = PickledValue.root(file.path(), file.parse().root());
      if (root.find("mp_world_size").map(PickledValue::asLong).orElse(0L) != 1) {
        return false;
      }
    }
    return !models.isEmpty();
  }

  /** The files of all mp names together, if every rank has exactly one; else as they are. */
  private static SortedMap<Integer, SortedMap<Integer, FileStat>> underOneMpRank(
      SortedMap<Integer, SortedMap<Integer, FileStat>> byMpRank) {
    SortedMap<Integer, FileStat> together = new TreeMap<>();
    int files = 0;
    for (SortedMap<Integer, FileStat> ranks : byMpRank.values()) {
      together.putAll(ranks);
      files += ranks.size();
    }
    if (together.size() < files) {
      return byMpRank;
    }
    SortedMap<Integer, SortedMap<Integer, FileStat>> one = new TreeMap<>();
    if (files > 0) {
      one.put(0, together);
    }
    return one;
  }

  private SourceStore.Listing list(String path) throws IOException {
    try {
      return store.list(path);
    } catch (NotDirectoryException e) {
      throw new RefusedException(
          path,
          "this is a file. --input is the directory that save_checkpoint was given, which holds `latest` and the directory of a tag.",
          e);
    } catch (NoSuchFileException | FileNotFoundException e) {
      throw new RefusedException(
          path, "there is no such directory. --input is what save_checkpoint was given.", e);
    }
  }

  private String latest(SourceStore.Listing top) throws IOException {
    for (String pointer : List.of(LATEST, TargetStore.LATEST_UNIVERSAL)) {
      for (FileStat file : top.files()) {
        if (file.name().equals(pointer)) {
          String tag = readText(file).strip();
          if (tag.isEmpty()) {
            throw new RefusedException(
                file.path(), "expected the name of a tag, found nothing. Name the tag with --tag.");
          }
          return tag;
        }
      }
    }
    List<String> tags = new ArrayList<>();
    List<String> trainer = new ArrayList<>();
    for (String sub : top.directories()) {
      SourceStore.Listing listing = store.list(store.child(directory, sub));
      if (isTag(listing)) {
        tags.add(sub);
      } else if (TRAINER.matcher(sub).matches() && has(listing, LATEST)) {
        trainer.add(sub);
      }
    }
    if (tags.isEmpty() && !trainer.isEmpty()) {
      trainer.sort(Comparator.comparingLong(Discovery::trainerStep));
      throw new RefusedException(
          directory,
          "this is the output directory of Hugging Face Trainer, and each of %s holds a checkpoint. Name one of them, the newest with --input=%s"
              .formatted(trainer, store.child(directory, trainer.get(trainer.size() - 1))));
    }
    throw new RefusedException(
        directory,
        tags.isEmpty()
            ? "there is no file 'latest' and no directory with ZeRO files. --input is what save_checkpoint was given."
            : "there is no file 'latest'. Name the tag with --tag; found " + tags);
  }

  private static long trainerStep(String name) {
    Matcher m = TRAINER.matcher(name);
    return m.matches() ? Long.parseLong(m.group(1)) : -1;
  }

  private String readText(FileStat file) throws IOException {
    long limit = 4096;
    if (file.bytes() > limit) {
      throw new RefusedException(
          file.path(),
          "expected the name of a tag, found a file of %d bytes".formatted(file.bytes()));
    }
    ByteBuffer text = ByteBuffer.allocate((int) file.bytes());
    try (RangedFile open = store.open(file)) {
      open.readFully(0, text);
    }
    return new String(text.array(), StandardCharsets.UTF_8);
  }

  private static boolean has(SourceStore.Listing listing, String name) {
    return listing.files().stream().anyMatch(file -> file.name().equals(name));
  }

  private static boolean isTag(SourceStore.Listing listing) {
    return listing.directories().contains("zero")
        || listing.files().stream().anyMatch(file -> CheckpointFiles.isTagFile(file.name()));
  }

  /** What is no tag and in none; a tag may lie deeper. */
  private void carryBeside(String at, String path, List<Carried> into) throws IOException {
    SourceStore.Listing listing = store.list(at);
    if (isTag(listing)) {
      return;
    }
    for (FileStat file : listing.files()) {
      into.add(new Carried(path + "/" + file.name(), file));
    }
    for (String sub : listing.directories()) {
      carryBeside(store.child(at, sub), path + "/" + sub, into);
    }
  }

  private void carryTree(String at, String path, List<Carried> into) throws IOException {
    SourceStore.Listing listing = store.list(at);
    for (FileStat file : listing.files()) {
      into.add(new Carried(path + "/" + file.name(), file));
    }
    for (String sub : listing.directories()) {
      carryTree(store.child(at, sub), path + "/" + sub, into);
    }
  }
}
