package io.github.reshard.pipeline;

import io.github.reshard.checkpoint.storage.JobDirectory;
import io.github.reshard.checkpoint.storage.LocalJobDirectory;
import io.github.reshard.transforms.Reshard;
import java.io.IOException;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import org.apache.beam.sdk.options.PipelineOptionsFactory;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.io.TempDir;

/**
 * A job that follows, taken step by step with a clock that the test turns and without any worker.
 */
abstract class SteppedFollower {
  static final String RUN = "0123abcd";

  @TempDir Path scratch;
  SavingRun saving;
  Path output;
  JobDirectory directory;
  FollowedReshards reshards;
  CommandOptions options;
  Follower follower;
  Following state = Following.START;
  long now = 1_800_000_000_000L;
  int items;

  @BeforeEach
  void begin() throws IOException {
    saving = new SavingRun(scratch.resolve("ckpt"));
    output = scratch.resolve("out");
    options = PipelineOptionsFactory.create().as(CommandOptions.class);
    options.setInput(saving.directory.toString());
    options.setOutput(output.toString());
    options.setTargetWorldSize(3);
    options.setPoll(1_000L);
    directory = new LocalJobDirectory(output.toString());
    directory.acquire(RUN);
    reshards = new FollowedReshards(directory, 1);
    restart();
  }

  /** Another process goes on with nothing but what stands in the output. */
  void restart() {
    follower = new Follower(options, RUN, reshards, () -> now);
    state = Following.START;
  }

  /** Takes steps of a second until nothing happens any more; what was said, but for beginnings. */
  List<String> steps() throws IOException {
    List<String> said = new ArrayList<>();
    for (int quiet = 0; quiet < 3 && !state.over(); ) {
      FollowStep step = follower.step(state);
      state = step.state();
      items += step.items().size();
      now += 1_000;
      List<FollowEvent> events = new FollowNews(directory).hear();
      events.stream()
          .filter(event -> event.kind() != FollowEvent.Kind.BEGUN)
          .map(event -> (event.kind() + " " + event.checkpoint() + " " + event.message()).strip())
          .forEach(said::add);
      quiet = events.isEmpty() ? quiet + 1 : 0;
    }
    return said;
  }

  /** What is in hand, as a worker finds it. */
  List<Reshard> inHand() throws IOException {
    List<Reshard> found = new ArrayList<>();
    for (String key : reshards.underWay(RUN)) {
      found.add(reshards.find(key).orElseThrow());
    }
    return found;
  }

  String tagInHand() {
    return state.inHand() == null ? "" : state.inHand().of().saved().toString();
  }

  /** Ends what is in hand as a worker would, without making anything. */
  void end(ReshardEnd.Kind kind, String message) throws IOException {
    for (Reshard reshard : inHand()) {
      reshard.target().abandon();
      reshards.end(reshard.key(), ReshardEnd.of(kind, message));
    }
  }

  /** Makes what is in hand with the main job, in a directory of its own, and moves it in. */
  void publish() throws IOException {
    for (Reshard reshard : inHand()) {
      String tag = tagInHand();
      reshard.target().abandon();
      ReshardOptions main = Resharding.options(saving.directory, output, 3);
      main.setTag(tag);
      main.setOverwrite(true);
      Resharding.run(main);
      reshards.published(reshard);
    }
  }
}
