package io.github.reshard.pipeline;

import io.github.reshard.checkpoint.OutputException;
import io.github.reshard.checkpoint.follow.Look;
import io.github.reshard.pipeline.Following.InHand;
import io.github.reshard.pipeline.Following.Target;
import io.github.reshard.pipeline.Following.Waiting;
import java.io.IOException;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.OptionalLong;

/**
 * What comes of a checkpoint all of whose reshards have ended.
 *
 * @param next what to remember
 * @param events what to say
 * @param latencyMillis from whole to published, if it was
 */
record FollowEnd(Following next, List<FollowEvent> events, OptionalLong latencyMillis) {
  /**
   * Draws the conclusions.
   *
   * @param ends of all that is in hand
   * @param look the checkpoint, if it is as it was
   */
  static FollowEnd of(
      CommandOptions options,
      RefusedFiles refusedFiles,
      Following state,
      Map<Target, ReshardEnd> ends,
      Optional<Look> look)
      throws IOException {
    InHand hand = state.inHand();
    String name = hand.of().saved().toString();
    Following next = state.with((InHand) null);
    List<FollowEvent> events = new ArrayList<>();
    OptionalLong latency = OptionalLong.empty();
    List<Target> published = ended(hand, ends, ReshardEnd.Kind.PUBLISHED);
    if (!published.isEmpty()) {
      FollowEvent event = published(hand, published, ends, rotated(options, published, hand), next);
      events.add(event);
      latency = OptionalLong.of(event.latencyMillis());
      next = next.made(hand.of().newestMillis());
    }
    List<Target> failed = ended(hand, ends, ReshardEnd.Kind.FAILED);
    List<Target> changed = ended(hand, ends, ReshardEnd.Kind.CHANGED);
    List<Target> beside = ended(hand, ends, ReshardEnd.Kind.BESIDE_CHANGED);
    List<Target> refused = ended(hand, ends, ReshardEnd.Kind.REFUSED);
    if (!failed.isEmpty()) {
      events.add(FollowEvent.of(FollowEvent.Kind.FAILED, name, ends.get(failed.get(0)).message()));
      return new FollowEnd(next.ended(), events, latency);
    }
    if (!changed.isEmpty() || (look.isEmpty() && !refused.isEmpty())) {
      String why = changed.isEmpty() ? "changed" : ends.get(changed.get(0)).message();
      events.add(FollowEvent.of(FollowEvent.Kind.GONE, name, why));
      next = next.with(next.watched().forget(hand.of().saved()));
    } else if (!beside.isEmpty()) {
      ReshardEnd end = ends.get(beside.get(0));
      events.add(
          FollowEvent.of(
              FollowEvent.Kind.NOTE,
              name,
              "%s, and is left out: it lies beside the tags and is none of theirs"
                  .formatted(end.message())));
      List<Waiting> waiting = new ArrayList<>(next.waiting());
      waiting.add(0, hand.of());
      next = next.without(end.paths()).with(waiting);
    } else if (!refused.isEmpty()) {
      String message = message(refused, hand.targets().size() > 1, ends);
      events.add(FollowEvent.of(FollowEvent.Kind.REFUSED, name, message));
      refusedFiles.put(look.get(), message);
    } else {
      refusedFiles.delete(hand.of().saved());
    }
    return new FollowEnd(next, events, latency);
  }

  private static List<Target> ended(
      InHand hand, Map<Target, ReshardEnd> ends, ReshardEnd.Kind kind) {
    return hand.targets().stream().filter(target -> ends.get(target).kind() == kind).toList();
  }

  private static FollowEvent published(
      InHand hand,
      List<Target> published,
      Map<Target, ReshardEnd> ends,
      List<String> notes,
      Following next) {
    return new FollowEvent(
        FollowEvent.Kind.PUBLISHED,
        hand.of().saved().toString(),
        String.join("; ", notes),
        published.stream().map(Target::ranks).toList(),
        published.stream().map(Target::directory).toList(),
        hand.files(),
        hand.bytes(),
        hand.of().wholeMillis(),
        hand.beganMillis(),
        published.stream().mapToLong(target -> ends.get(target).millis()).max().getAsLong(),
        next.waiting().size());
  }

  /** One sentence for all sizes where they say the same. */
  private static String message(
      List<Target> refused, boolean several, Map<Target, ReshardEnd> ends) {
    List<String> messages =
        refused.stream().map(target -> ends.get(target).message()).distinct().toList();
    if (!several || messages.size() == 1) {
      return messages.get(0);
    }
    return String.join(
        "; ",
        refused.stream()
            .map(target -> "at %d ranks: %s".formatted(target.ranks(), ends.get(target).message()))
            .toList());
  }

  /** Removes what {@code --keep} does not ask for; what could not be removed, a sentence each. */
  private static List<String> rotated(CommandOptions options, List<Target> published, InHand hand) {
    List<String> notes = new ArrayList<>();
    if (options.getKeep() == null) {
      return notes;
    }
    for (Target target : published) {
      try {
        KeptCheckpoints.removeOlder(
                TargetSizes.output(options, target.ranks()),
                !hand.of().saved().name().isEmpty(),
                options.getKeep(),
                options)
            .stream()
            .filter(note -> !note.startsWith(KeptCheckpoints.REMOVED))
            .forEach(notes::add);
      } catch (IOException | OutputException e) {
        notes.add("--keep could not remove what is older: " + e);
      }
    }
    return notes;
  }
}
