package io.github.reshard.pipeline;

import io.github.reshard.checkpoint.OutputException;
import io.github.reshard.checkpoint.storage.JobDirectory;
import java.io.IOException;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Deque;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;

/**
 * What is said by the source of a job that follows, wherever it runs, to whoever started the job:
 * an event is a file in the job's directory until it is heard.
 */
final class FollowNews {
  private static final String EVENT = "event-";

  /** If nobody listens, the oldest go. */
  private static final int MOST_UNHEARD = 1000;

  private static final int MOST_REMEMBERED = 2 * MOST_UNHEARD;

  private final JobDirectory directory;
  private final Deque<FollowEvent> unsaid = new ArrayDeque<>();
  private final Map<String, Boolean> heard =
      new LinkedHashMap<>() {
        private static final long serialVersionUID = 1L;

        @Override
        protected boolean removeEldestEntry(Map.Entry<String, Boolean> eldest) {
          return size() > MOST_REMEMBERED;
        }
      };

  FollowNews(JobDirectory directory) {
    this.directory = directory;
  }

  /** Says something with the next {@link #put}. */
  void say(FollowEvent event) {
    unsaid.add(event);
  }

  /**
   * Writes what was said, numbered by {@code state}. What cannot be written now is kept for the
   * next time, if there is one.
   *
   * @return {@code state} with the next number
   * @throws OutputException if it cannot be written and {@code state} is over
   */
  Following put(Following state) throws IOException {
    Following next = state;
    try {
      while (!unsaid.isEmpty()) {
        byte[] content = unsaid.peek().toBytes();
        // A job that goes on from an earlier state says other things under the same number.
        directory.put(
            "%s%08d-%08x".formatted(EVENT, next.number(), Arrays.hashCode(content)), content);
        unsaid.remove();
        next = next.next();
        if (next.number() % (MOST_UNHEARD / 2) == 0) {
          dropOldest();
        }
      }
    } catch (OutputException e) {
      if (state.over()) {
        throw e;
      }
    }
    return next;
  }

  private void dropOldest() throws IOException {
    List<String> events = events();
    for (String name : events.subList(0, Math.max(0, events.size() - MOST_UNHEARD))) {
      directory.delete(name);
    }
  }

  private List<String> events() throws IOException {
    return directory.names().stream().filter(name -> name.startsWith(EVENT)).toList();
  }

  /** What was said since the last time, and is heard now. */
  List<FollowEvent> hear() throws IOException {
    List<FollowEvent> events = new ArrayList<>();
    for (String name : events()) {
      Optional<byte[]> content = directory.get(name);
      if (content.isPresent() && heard.put(name, true) == null) {
        FollowEvent event = FollowEvent.parse(content.get());
        // A job that goes on from the moment before learns again how what it had in hand ended.
        if (event.kind() != FollowEvent.Kind.PUBLISHED
            || heard.put(event.checkpoint() + "/" + event.beganMillis(), true) == null) {
          events.add(event);
        }
      }
      directory.delete(name);
    }
    return events;
  }
}
