package io.github.reshard.pipeline;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.deepspeed.CheckpointFacts;
import io.github.reshard.checkpoint.deepspeed.CheckpointFiles;
import io.github.reshard.checkpoint.openstate.OpenStateSource;
import io.github.reshard.checkpoint.plan.ReshardPlan;
import io.github.reshard.checkpoint.planner.ReshardPlanner;
import io.github.reshard.checkpoint.planner.TargetDegrees;
import io.github.reshard.checkpoint.shards.UserHints;
import io.github.reshard.checkpoint.shards.UserShards;
import io.github.reshard.checkpoint.storage.ComposedStore;
import io.github.reshard.checkpoint.storage.SourceStore;
import io.github.reshard.checkpoint.universal.UniversalSource;
import io.github.reshard.pipeline.storage.Stores;
import java.io.IOException;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.Objects;
import java.util.Optional;

/**
 * A checkpoint as it was found where a user said, of whatever format: every command begins with
 * one.
 *
 * @param location as the user said it
 * @param store reads it
 * @param files which files there are
 * @param user the same, if they are shards that were saved one by one
 * @param hints what the user adds to such shards
 * @param open the same, if it is an open training state
 */
record Source(
    String location,
    SourceStore store,
    CheckpointFiles files,
    Optional<UserShards> user,
    UserHints hints,
    Optional<OpenStateSource> open) {

  /**
   * What {@code --input} means.
   *
   * @throws RefusedException if it means nothing, or options do not go with what it means
   */
  static Source ofInput(ReshardOptions options) throws IOException {
    return ofInput(Stores.source(options.getInput(), options), options);
  }

  static Source ofInput(SourceStore store, ReshardOptions options) throws IOException {
    Source source = find(store, options.getInput(), options.getTag(), options);
    if (source.user.isPresent() && options.getTargetStage() != null) {
      throw new RefusedException(
          options.getInput(),
          "--targetStage is for checkpoints of save_checkpoint; shards that were saved one by one"
              + " stay at their stage.");
    }
    requireShards(options, source);
    return source;
  }

  /**
   * What a location means.
   *
   * @param tag the checkpoint inside it, or null for what {@code latest} says
   * @param options say what to look for, and of shards what these do not say
   */
  static Source find(String location, String tag, ReshardOptions options) throws IOException {
    return find(Stores.source(location, options), location, tag, options);
  }

  static Source find(SourceStore store, String location, String tag, ReshardOptions options)
      throws IOException {
    if (options.getShards() != null && tag != null) {
      throw new RefusedException(
          location, "--shards is for shards outside of a tag; leave --tag out.");
    }
    String directory = Stores.directory(location);
    UserHints hints =
        new UserHints(
            Optional.ofNullable(options.getModel()),
            Optional.ofNullable(options.getDsConfig()),
            Optional.ofNullable(options.getParamGroups()),
            options.getTrustMasters(),
            options.getSanitize());
    Optional<OpenStateSource> open =
        tag == null && options.getShards() == null
            ? OpenStateSource.find(store, directory)
            : Optional.empty();
    if (open.isPresent()) {
      return new Source(
          location, open.get().store(), open.get().files(), Optional.empty(), hints, open);
    }
    Optional<UserShards> user =
        tag == null
            ? UserShards.find(store, directory, Optional.ofNullable(options.getShards()))
            : Optional.empty();
    CheckpointFiles files =
        user.isPresent()
            ? user.get().files()
            : DcpJobs.orRefused(
                store,
                tag == null ? directory : store.child(directory, tag),
                () -> CheckpointFiles.discover(store, directory, Optional.ofNullable(tag)));
    if (user.isEmpty() && UniversalSource.is(files)) {
      UniversalSource universal = UniversalSource.of(store, files);
      return new Source(location, universal.store(), universal.files(), user, hints, open);
    }
    return new Source(location, store, files, user, hints, open);
  }

  /**
   * Whether it is a Universal Checkpoint or an open state, which are read as if one rank had saved
   * them.
   */
  boolean isUniversal() {
    return store instanceof ComposedStore;
  }

  /**
   * @throws RefusedException if {@code options} say what shards do not say, and none of {@code
   *     sources} is shards
   */
  static void requireShards(ReshardOptions options, Source... sources) {
    Map<String, String> hints = new LinkedHashMap<>();
    hints.put("--model", options.getModel());
    hints.put("--dsConfig", options.getDsConfig());
    hints.put("--paramGroups", options.getParamGroups());
    hints.put("--sanitize", options.getSanitize() ? "" : null);
    hints.values().removeIf(Objects::isNull);
    for (Source source : sources) {
      if (source.user.isPresent()) {
        return;
      }
    }
    if (!hints.isEmpty()) {
      throw new RefusedException(
          sources[0].location,
          "%s are for shards that were saved one by one, and none are here. A checkpoint of save_checkpoint says all that by itself; if these are shards, name them with --shards."
              .formatted(hints.keySet()));
    }
  }

  /** What it is called: {@code directory/tag}, or the directory of shards that have no tag. */
  String name() {
    return files.tag().isEmpty() ? files.directory() : files.directory() + "/" + files.tag();
  }

  /** The directory that holds the files of the ranks, or those of an open state. */
  String tagDirectory() {
    return files.tag().isEmpty() || open.isPresent()
        ? files.directory()
        : store.child(files.directory(), files.tag());
  }

  /** The data-parallel ranks that saved it. */
  int dataParallelRanks() throws IOException {
    return user.isPresent() ? user.get().shards().size() : Math.max(1, facts().dataParallelRanks());
  }

  /** Whether {@code ranks} data-parallel ranks saved it, and every one of them. */
  boolean isOf(int ranks) throws IOException {
    return !isUniversal()
        && dataParallelRanks() == ranks
        && files.optimizers().values().stream().allMatch(byRank -> byRank.size() == ranks);
  }

  CheckpointFacts facts() throws IOException {
    CheckpointFacts facts = CheckpointFacts.read(store, files);
    return open.isPresent()
        ? facts.withOddity(OpenStateSource.ODDITY)
        : isUniversal() ? facts.withOddity(UniversalSource.ODDITY) : facts;
  }

  /**
   * Plans its reshard, and writes nothing.
   *
   * @param targetStage the ZeRO stage, or {@link
   *     io.github.reshard.checkpoint.deepspeed.ZeroStage#AS_SAVED}
   * @throws RefusedException if it is not sound
   */
  ReshardPlan plan(int targetWorldSize, int targetStage, long partBytes) throws IOException {
    return plan(targetWorldSize, targetStage, TargetDegrees.AS_SAVED, partBytes);
  }

  /**
   * Plans its reshard to other degrees of parallelism as well, and writes nothing.
   *
   * @param targetStage the ZeRO stage, as of the other one
   * @throws RefusedException if it is not sound, or not of a kind whose degrees can change
   */
  ReshardPlan plan(int targetWorldSize, int targetStage, TargetDegrees degrees, long partBytes)
      throws IOException {
    if (!degrees.isAsSaved() && (user.isPresent() || isUniversal() || open.isPresent())) {
      throw new RefusedException(
          location,
          "other degrees of parallelism than data are only made of what save_checkpoint wrote."
              + " Leave these options out.");
    }
    if (open.isPresent()) {
      return ReshardPlanner.plan(open.get(), targetWorldSize, targetStage, partBytes);
    }
    return user.isPresent()
        ? ReshardPlanner.plan(store, user.get(), hints, targetWorldSize, partBytes)
        : isUniversal()
            ? ReshardPlanner.planOfUniversal(store, files, targetWorldSize, targetStage, partBytes)
            : ReshardPlanner.plan(store, files, targetWorldSize, targetStage, degrees, partBytes);
  }
}
