package io.github.reshard.pipeline;

import io.github.reshard.transforms.Keyed;
import io.github.reshard.transforms.PlanItem;
import java.util.ArrayList;
import java.util.List;

/** One step of a job that follows a run: what it has to remember changes, and what comes of it. */
final class FollowStep {
  private final FollowNews news;
  private final List<Keyed<PlanItem>> items = new ArrayList<>();
  private final List<Long> latenciesMillis = new ArrayList<>();
  private Following state;
  private long pauseMillis;

  /**
   * @param before what is remembered of the steps before
   * @param news hears what is said
   */
  FollowStep(Following before, FollowNews news) {
    this.state = before;
    this.news = news;
  }

  /** What to remember, as it is by now. */
  Following state() {
    return state;
  }

  void become(Following next) {
    state = next;
  }

  void say(FollowEvent event) {
    news.say(event);
  }

  /** What to reshard. */
  List<Keyed<PlanItem>> items() {
    return items;
  }

  void add(List<Keyed<PlanItem>> more) {
    items.addAll(more);
  }

  /** From whole to published, of what was published since the last step. */
  List<Long> latenciesMillis() {
    return latenciesMillis;
  }

  void published(long latencyMillis) {
    latenciesMillis.add(latencyMillis);
  }

  /** When to go on. */
  long pauseMillis() {
    return pauseMillis;
  }

  void pause(long millis) {
    pauseMillis = millis;
  }
}
