package io.github.reshard.pipeline;

import com.fasterxml.jackson.databind.ObjectMapper;
import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.follow.Look;
import io.github.reshard.checkpoint.follow.SavedTag;
import io.github.reshard.checkpoint.follow.SharedBeside;
import io.github.reshard.checkpoint.plan.ReshardPlan;
import io.github.reshard.checkpoint.planner.Formats;
import io.github.reshard.checkpoint.storage.Publishing;
import io.github.reshard.checkpoint.storage.SourceStore;
import io.github.reshard.checkpoint.storage.TargetStore;
import io.github.reshard.pipeline.Following.Target;
import io.github.reshard.pipeline.storage.Stores;
import io.github.reshard.transforms.JobConfig;
import io.github.reshard.transforms.Keyed;
import io.github.reshard.transforms.PlanItem;
import io.github.reshard.transforms.Reshard;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.util.ArrayList;
import java.util.List;
import java.util.Optional;
import java.util.Set;
import java.util.SortedSet;
import org.apache.beam.sdk.options.PipelineOptions;

/** The outputs that each followed checkpoint gets: which of them stand there, and making others. */
final class FollowedTargets {
  /** Part bytes are a multiple of this, so that a part of a file ends between two elements. */
  private static final long ALIGNMENT = 64;

  private static final Set<String> UNSIZED = Set.of(Formats.DCP, Formats.UNIVERSAL);

  private final CommandOptions options;
  private final SourceStore store;
  private final FollowedReshards reshards;
  private final String run;

  /** The main job's options for one checkpoint and one size. */
  private final CommandOptions asked;

  /**
   * @param options of the job that follows
   * @param run what it is called
   */
  FollowedTargets(
      CommandOptions options, SourceStore store, FollowedReshards reshards, String run) {
    this.options = options;
    this.store = store;
    this.reshards = reshards;
    this.run = run;
    this.asked = copy(options);
    asked.setPartBytes(-Math.floorDiv(-options.getPartBytes(), ALIGNMENT) * ALIGNMENT);
    asked.setTargetWorldSizes(null);
  }

  /** What is set there changes nothing for anybody else. */
  private static CommandOptions copy(PipelineOptions options) {
    ObjectMapper mapper =
        new ObjectMapper()
            .registerModules(ObjectMapper.findModules(FollowedTargets.class.getClassLoader()));
    try {
      return mapper
          .readValue(mapper.writeValueAsBytes(options), PipelineOptions.class)
          .as(CommandOptions.class);
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }

  /** What the job calls the reshards of one checkpoint. */
  String run(int number) {
    return "%s-%08d".formatted(run, number);
  }

  private String directory(Look look, int ranks) {
    String output = TargetSizes.output(options, ranks);
    return look.saved().name().isEmpty()
        ? output
        : Stores.source(output, options).child(output, look.saved().name());
  }

  private String outputTag(SavedTag saved) {
    return Formats.tag(Optional.ofNullable(options.getOutputFormat()), saved.tag());
  }

  /** Whether all outputs of {@code look} stand there. */
  boolean areMade(Look look) throws IOException {
    for (int ranks : TargetSizes.of(options)) {
      if (!isMade(look, ranks)) {
        return false;
      }
    }
    return true;
  }

  private boolean isMade(Look look, int ranks) throws IOException {
    // To ask for the stage that it has is said in other words than to ask for another one.
    String form =
        options.getTargetStage() == null
            ? Job.form(options)
            : Job.form(source(look, store), Job.stage(options));
    // A format that is the same for all sizes says so, whatever size was asked for.
    boolean anySize = UNSIZED.contains(String.valueOf(options.getOutputFormat()));
    return output(look, ranks)
        .isMadeOf(
            look,
            outputTag(look.saved()),
            anySize ? ReshardPlan.ANY_WORLD_SIZE : ranks,
            form,
            options.getTrustMasters());
  }

  private ReshardedOutput output(Look look, int ranks) {
    return new ReshardedOutput(directory(look, ranks), options);
  }

  /**
   * How the reshard that {@code target} is of ended, if it was published by a worker that died
   * before it could say so.
   */
  Optional<ReshardEnd> published(SavedTag saved, Target target) throws IOException {
    ReshardedOutput output = new ReshardedOutput(target.directory(), options);
    String tag = outputTag(saved);
    String run = run(FollowedReshards.number(target.key()));
    if (!output.run(tag).equals(Optional.of(run))) {
      return Optional.empty();
    }
    return Optional.of(
        output.isMade(tag)
            ? ReshardEnd.of(ReshardEnd.Kind.PUBLISHED, "")
            : ReshardEnd.of(
                ReshardEnd.Kind.FAILED, target.directory() + ": " + ReshardedOutput.DAMAGED));
  }

  private Source source(Look look, SourceStore from) throws IOException {
    asked.setInput(look.directory());
    asked.setTag(look.saved().tag());
    return Source.ofInput(from, asked);
  }

  /**
   * A checkpoint whose reshards have begun.
   *
   * @param targets all of them; none if everything stands there already
   * @param items what their plans list
   */
  record Begun(List<Target> targets, List<Keyed<PlanItem>> items) {}

  /**
   * Plans and begins what is not there yet.
   *
   * @param number of the checkpoint
   * @param leads whether it is the newest of the output
   * @param leftOut paths beside the tags
   * @throws RefusedException if no size can be planned
   * @throws io.github.reshard.checkpoint.OutputException if one cannot be begun; then none is
   */
  Begun begin(Look look, int number, boolean leads, SortedSet<String> leftOut) throws IOException {
    boolean ownBeside = !look.saved().name().isEmpty() || !look.beside().isEmpty();
    SourceStore from =
        ownBeside ? store : new SharedBeside(store, look.directory(), look.tagDirectory(), leftOut);
    List<Target> targets = new ArrayList<>();
    List<Keyed<PlanItem>> items = new ArrayList<>();
    try {
      Source source = source(look, from).readOnce();
      for (int ranks : TargetSizes.of(options)) {
        if (isMade(look, ranks)) {
          continue;
        }
        String directory = directory(look, ranks);
        Job job;
        try {
          job = job(source, ranks, directory);
        } catch (RefusedException e) {
          targets.add(new Target(ranks, directory, "", e.getMessage()));
          continue;
        }
        Reshard begun = begin(job, look, number, ranks, leads);
        targets.add(new Target(ranks, directory, begun.key(), ""));
        PlanItem.allOf(job.plan()).forEach(item -> items.add(new Keyed<>(begun.key(), item)));
      }
      return new Begun(targets, items);
    } catch (IOException | RuntimeException e) {
      abandon(targets, e);
      throw e;
    }
  }

  private Job job(Source source, int ranks, String directory) throws IOException {
    asked.setTargetWorldSize(ranks == ReshardPlan.ANY_WORLD_SIZE ? null : (Integer) ranks);
    asked.setOutput(directory);
    return Job.of(source, asked);
  }

  private Reshard begin(Job job, Look look, int number, int ranks, boolean leads)
      throws IOException {
    boolean overwrite = output(look, ranks).isMade(job.plan().tag());
    boolean alone = !look.saved().name().isEmpty();
    TargetStore target =
        job.target(new Publishing(overwrite, leads || alone, run(number)), options);
    target.begin();
    try {
      JobConfig config =
          new JobConfig(
              options.getTrustMasters(),
              job.form(),
              System.currentTimeMillis(),
              run(number),
              false);
      return reshards.add(
          run, number, ranks, Reshard.keep("", job.plan(), job.source().store(), target, config));
    } catch (IOException | RuntimeException e) {
      try {
        target.abandon();
      } catch (IOException | RuntimeException again) {
        e.addSuppressed(again);
      }
      throw e;
    }
  }

  private void abandon(List<Target> targets, Exception because) {
    for (Target target : targets) {
      try {
        if (!target.key().isEmpty()) {
          reshards.abandon(target.key());
        }
      } catch (IOException | RuntimeException e) {
        because.addSuppressed(e);
      }
    }
  }
}
