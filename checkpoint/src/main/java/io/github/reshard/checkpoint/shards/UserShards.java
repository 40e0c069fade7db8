package io.github.reshard.checkpoint.shards;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.deepspeed.CheckpointFiles;
import io.github.reshard.checkpoint.deepspeed.Discovery;
import io.github.reshard.checkpoint.storage.FileStat;
import io.github.reshard.checkpoint.storage.SourceStore;
import java.io.FileNotFoundException;
import java.io.IOException;
import java.nio.file.NoSuchFileException;
import java.nio.file.NotDirectoryException;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.SortedMap;
import java.util.TreeMap;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/**
 * Shards that a user saved without {@code save_checkpoint}: {@code
 * torch.save(optimizer.state_dict(), f"optimizer.{rank:02d}.pt")} on every rank (DeepSpeed issue
 * 7628).
 *
 * @param directory where they lie
 * @param names how they are called
 * @param shards by rank
 * @param beside the other files there
 * @param leftOut sub-directories, which are not carried over
 */
public record UserShards(
    String directory,
    ShardNames names,
    SortedMap<Integer, FileStat> shards,
    List<FileStat> beside,
    List<String> leftOut) {
  private static final Pattern TORCH_NAME = Pattern.compile("(?i).+\\.(pt|pth|bin|ckpt|pkl|tar)");
  private static final Pattern SPEAKS_OF_OPTIMIZER =
      Pattern.compile("(?i).*optim.*|(.*[^a-z])?opt([^a-z].*)?");
  private static final Pattern NUMBER = Pattern.compile("\\d{1,9}");

  /**
   * Looks for such shards.
   *
   * @param pattern their names with {@code *} for the rank, or empty for the usual names
   * @return none if no pattern is given and this looks like something else
   * @throws RefusedException if a pattern is given and fits nothing, or it cannot be told which
   *     files are meant
   */
  public static Optional<UserShards> find(
      SourceStore store, String directory, Optional<String> pattern) throws IOException {
    SourceStore.Listing listing;
    try {
      listing = store.list(directory);
    } catch (NoSuchFileException | NotDirectoryException | FileNotFoundException e) {
      throw new RefusedException(directory, "there is no such directory.", e);
    }
    if (pattern.isPresent()) {
      return Optional.of(named(directory, listing, pattern.get()));
    }
    if (listing.files().stream().anyMatch(f -> f.name().equals(Discovery.LATEST))) {
      return Optional.empty();
    }
    Map<String, String[]> found = new LinkedHashMap<>();
    for (List<String> alike : alike(listing)) {
      String[] around = around(directory, alike);
      found.put(around[0] + "*" + around[1], around);
    }
    if (found.size() > 1) {
      throw new RefusedException(
          directory,
          "which files are the optimizer's shards? Say it with --shards='...', one of %s."
              .formatted(found.keySet()));
    }
    return found.values().stream()
        .findFirst()
        .map(around -> of(directory, listing, around[0], around[1]));
  }

  private static UserShards named(String directory, SourceStore.Listing listing, String pattern) {
    int star = pattern.indexOf('*');
    if (star < 0 || pattern.indexOf('*', star + 1) >= 0 || pattern.indexOf('/') >= 0) {
      throw new RefusedException(
          directory,
          "--shards is a file name with one * in the place of the rank, such as 'optimizer.*.pt', not '%s'."
              .formatted(pattern));
    }
    String before = pattern.substring(0, star);
    String after = pattern.substring(star + 1);
    if (listing.files().stream()
        .noneMatch(f -> ShardNames.rankIn(before, after, f.name()).isPresent())) {
      throw new RefusedException(
          directory,
          "no file is called '%s' with a number in the place of the *; found %s."
              .formatted(pattern, listing.files().stream().map(FileStat::name).toList()));
    }
    return of(directory, listing, before, after);
  }

  private static UserShards of(
      String directory, SourceStore.Listing listing, String before, String after) {
    SortedMap<Integer, FileStat> shards = new TreeMap<>();
    List<String> ranks = new ArrayList<>();
    List<FileStat> beside = new ArrayList<>();
    for (FileStat file : listing.files()) {
      String digits = ShardNames.digitsIn(before, after, file.name());
      if (digits == null) {
        if (!file.name().equals(CheckpointFiles.MANIFEST)) {
          beside.add(file);
        }
        continue;
      }
      ranks.add(digits);
      FileStat other = shards.put(Integer.parseInt(digits), file);
      if (other != null) {
        throw new RefusedException(
            file.path(),
            "'%s' beside it is for the same rank %d. Keep the shards of one run."
                .formatted(other.name(), Integer.parseInt(digits)));
      }
    }
    return new UserShards(
        directory,
        ShardNames.of(directory, before, after, ranks),
        shards,
        beside,
        listing.directories());
  }

  /** The files that speak of an optimizer, those together whose names differ only in numbers. */
  private static List<List<String>> alike(SourceStore.Listing listing) {
    Map<String, List<String>> alike = new LinkedHashMap<>();
    for (FileStat file : listing.files()) {
      String name = file.name();
      if (TORCH_NAME.matcher(name).matches()
          && SPEAKS_OF_OPTIMIZER.matcher(name).matches()
          && NUMBER.matcher(name).find()
          && !CheckpointFiles.isOptimizerName(name)) {
        alike
            .computeIfAbsent(NUMBER.matcher(name).replaceAll("*"), k -> new ArrayList<>())
            .add(name);
      }
    }
    return List.copyOf(alike.values());
  }

  /**
   * What stands before and after the rank: the number that differs from name to name is the rank.
   */
  private static String[] around(String directory, List<String> names) {
    List<int[]> numbers = numbers(names.get(0));
    List<Integer> differing = new ArrayList<>();
    for (int n = 0; n < numbers.size(); n++) {
      int number = n;
      if (names.stream().map(name -> text(name, number)).distinct().count() > 1) {
        differing.add(n);
      }
    }
    if (differing.size() > 1 || (differing.isEmpty() && numbers.size() > 1)) {
      throw new RefusedException(
          directory,
          "which number in '%s' is the rank? Say it with --shards='...', the name with * in its place."
              .formatted(names.get(0)));
    }
    int[] rank = numbers.get(differing.isEmpty() ? 0 : differing.get(0));
    return new String[] {names.get(0).substring(0, rank[0]), names.get(0).substring(rank[1])};
  }

  private static String text(String name, int number) {
    int[] at = numbers(name).get(number);
    return name.substring(at[0], at[1]);
  }

  private static List<int[]> numbers(String name) {
    List<int[]> numbers = new ArrayList<>();
    Matcher matcher = NUMBER.matcher(name);
    while (matcher.find()) {
      numbers.add(new int[] {matcher.start(), matcher.end()});
    }
    return numbers;
  }

  /** The names of the shards with {@code *} for the rank. */
  public String pattern() {
    return names.pattern();
  }

  /** What the shard of {@code rank} is called. */
  public String nameOf(int rank) {
    return names.of(rank);
  }

  /** The shards and the files beside them, as those of a checkpoint without a tag. */
  public CheckpointFiles files() {
    SortedMap<Integer, SortedMap<Integer, FileStat>> optimizers = new TreeMap<>();
    optimizers.put(0, shards);
    return new CheckpointFiles(
        directory,
        "",
        new TreeMap<>(),
        new TreeMap<>(),
        optimizers,
        List.of(),
        List.of(),
        List.of(),
        beside.stream().map(file -> new CheckpointFiles.Carried(file.name(), file)).toList());
  }
}
