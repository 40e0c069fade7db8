package io.github.reshard.pipeline;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.deepspeed.CheckpointFacts;
import io.github.reshard.checkpoint.deepspeed.CheckpointFiles;
import io.github.reshard.checkpoint.deepspeed.UserHints;
import io.github.reshard.checkpoint.plan.ReshardPlan;
import io.github.reshard.checkpoint.planner.Formats;
import io.github.reshard.checkpoint.planner.Found;
import io.github.reshard.checkpoint.planner.Place;
import io.github.reshard.checkpoint.planner.ReshardPlanner;
import io.github.reshard.checkpoint.planner.TargetDegrees;
import io.github.reshard.checkpoint.storage.SourceStore;
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
 * @param found what is there
 * @param hints what the user adds to shards
 */
record Source(String location, Found found, UserHints hints) {

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
    if (source.isBare() && options.getTargetStage() != null) {
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
    Place place = place(store, location, tag, options);
    return new Source(location, Formats.find(place), place.hints());
  }

  /**
   * The checkpoint of another trainer that a location means, if it means one.
   *
   * @param tag a directory in it, or null
   * @throws RefusedException if it is one that is not whole or not understood
   */
  static Optional<Source> foreign(String location, String tag, ReshardOptions options)
      throws IOException {
    Place place = place(Stores.source(location, options), location, tag, options);
    return Formats.foreign(place).map(found -> new Source(found.folder(), found, UserHints.NONE));
  }

  private static Place place(
      SourceStore store, String location, String tag, ReshardOptions options) {
    return new Place(
        store,
        Stores.directory(location),
        Optional.ofNullable(tag),
        Optional.ofNullable(options.getShards()),
        new UserHints(
            Optional.ofNullable(options.getModel()),
            Optional.ofNullable(options.getDsConfig()),
            Optional.ofNullable(options.getParamGroups()),
            options.getTrustMasters(),
            options.getSanitize()));
  }

  /** The same, whose metadata is read once for several plans. */
  Source readOnce() {
    return new Source(location, found.readOnce(), hints);
  }

  /** Reads its files. */
  SourceStore store() {
    return found.store();
  }

  /** Which files there are. */
  CheckpointFiles files() {
    return found.files();
  }

  /** Whether it is shards that were saved one by one, without a tag and without model files. */
  boolean isBare() {
    return found.bare().isPresent();
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
      if (source.isBare()) {
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
    return files().tag().isEmpty()
        ? files().directory()
        : files().directory() + "/" + files().tag();
  }

  /** The directory that holds its files. */
  String tagDirectory() {
    return found.folder();
  }

  /** The data-parallel ranks that saved it. */
  int dataParallelRanks() throws IOException {
    return isBare() ? found.bare().get().ranks() : Math.max(1, facts().dataParallelRanks());
  }

  /** Whether {@code ranks} data-parallel ranks saved it, and every one of them. */
  boolean isOf(int ranks) throws IOException {
    return found.oddity().isEmpty()
        && dataParallelRanks() == ranks
        && files().optimizers().values().stream().allMatch(byRank -> byRank.size() == ranks);
  }

  CheckpointFacts facts() throws IOException {
    CheckpointFacts facts = CheckpointFacts.read(store(), files());
    return found.oddity().isPresent() ? facts.withOddity(found.oddity().get()) : facts;
  }

  /**
   * Plans its reshard, and writes nothing.
   *
   * @param targetStage the ZeRO stage, or {@link
   *     io.github.reshard.checkpoint.deepspeed.ZeroStage#AS_SAVED}
   * @throws RefusedException if it is not sound
   */
  ReshardPlan plan(int targetWorldSize, int targetStage, long partBytes) throws IOException {
    return found.plan(targetWorldSize, targetStage, partBytes);
  }

  /**
   * Plans its reshard to other degrees of parallelism as well, and writes nothing.
   *
   * @param targetStage the ZeRO stage, as of the other one
   * @throws RefusedException if it is not sound, or not of a kind whose degrees can change
   */
  ReshardPlan plan(int targetWorldSize, int targetStage, TargetDegrees degrees, long partBytes)
      throws IOException {
    if (degrees.isAsSaved()) {
      return plan(targetWorldSize, targetStage, partBytes);
    }
    boolean composed = found.oddity().isPresent();
    if (isBare()
        || (composed && (degrees.experts().isPresent() || degrees.pipeline().isPresent()))) {
      throw new RefusedException(
          location,
          "other degrees of experts and pipelines are only made of what save_checkpoint wrote, and"
              + " shards that were saved one by one keep all. Leave these options out.");
    }
    if (composed) {
      return ReshardPlanner.plan(found, targetWorldSize, targetStage, degrees, partBytes);
    }
    return ReshardPlanner.plan(store(), files(), targetWorldSize, targetStage, degrees, partBytes);
  }
}
