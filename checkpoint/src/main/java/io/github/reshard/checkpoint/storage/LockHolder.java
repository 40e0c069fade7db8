package io.github.reshard.checkpoint.storage;

import java.io.IOException;
import java.net.InetAddress;
import java.net.UnknownHostException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Instant;
import java.time.temporal.ChronoUnit;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.Optional;

/**
 * Who holds an output, as its lock says it.
 *
 * @param run the run, drawn for each job
 * @param host the name of its machine, for people
 * @param machine what tells machines, and containers on one, apart: numbers of processes mean
 *     something only where it is equal
 * @param pid its process
 * @param started when that process started, so that another one with the same number is not it
 * @param since when it took the output
 * @param doing what it was at when it last showed itself; empty if it did not say
 */
public record LockHolder(
    String run, String host, String machine, long pid, String started, String since, String doing) {
  /** How often a holder shows that it lives, in milliseconds. */
  public static final long HEARTBEAT_MILLIS = 10_000;

  /** A holder on another machine that has not shown itself for so many milliseconds is dead. */
  public static final long DEAD_AFTER_MILLIS = 120_000;

  private static final Path BOOT_ID = Path.of("/proc/sys/kernel/random/boot_id");
  private static final Path PROCESS_NAMESPACE = Path.of("/proc/self/ns/pid");

  /** This process, from now on. */
  public static LockHolder here(String run) {
    ProcessHandle self = ProcessHandle.current();
    return new LockHolder(
        run,
        hostName(),
        machineId(),
        self.pid(),
        started(self),
        Instant.now().truncatedTo(ChronoUnit.SECONDS).toString(),
        "");
  }

  /** The same, which has gone on from {@code earlier}. */
  public LockHolder since(LockHolder earlier) {
    return new LockHolder(run, host, machine, pid, started, earlier.since(), doing);
  }

  /** The same, with what it is at now. */
  public LockHolder now() {
    return new LockHolder(run, host, machine, pid, started, since, Heartbeat.doing());
  }

  private static String started(ProcessHandle process) {
    return process.info().startInstant().map(Instant::toString).orElse("unknown");
  }

  private static String hostName() {
    String name = System.getenv("HOSTNAME");
    if (name != null && !name.isBlank()) {
      return name;
    }
    try {
      return InetAddress.getLocalHost().getHostName();
    } catch (UnknownHostException e) {
      return "unknown";
    }
  }

  /** The boot and the namespace of process numbers; empty where the system does not tell them. */
  private static String machineId() {
    try {
      return Files.readString(BOOT_ID).strip()
          + " "
          + Files.readSymbolicLink(PROCESS_NAMESPACE).toString();
    } catch (IOException | UnsupportedOperationException e) {
      return "";
    }
  }

  /** Whether the holder is known to live or to be dead; empty if that cannot be told from here. */
  Optional<Boolean> lives() {
    if (machine.isEmpty() || !machine.equals(machineId())) {
      return Optional.empty();
    }
    return Optional.of(
        ProcessHandle.of(pid)
            .filter(ProcessHandle::isAlive)
            .filter(process -> started(process).equals(started))
            .isPresent());
  }

  /**
   * Whether the holder is dead.
   *
   * @param silentMillis how long ago it showed itself, by the clock of the store
   */
  public boolean isDead(long silentMillis) {
    return lives().map(alive -> !alive).orElse(silentMillis > DEAD_AFTER_MILLIS);
  }

  /**
   * The same where a job shows itself and not a process, which may live on without the job, as
   * Flink's do.
   */
  public boolean isGone(long silentMillis) {
    return isDead(silentMillis) || silentMillis > DEAD_AFTER_MILLIS;
  }

  /** As people read it. */
  public String describe() {
    return "%s, process %d, since %s".formatted(host, pid, since)
        + (doing.isEmpty() ? "" : ", " + doing);
  }

  /**
   * What is said to a run that has lost its output.
   *
   * @param now who has it
   */
  public static String lost(Optional<LockHolder> now) {
    return now.map(
            other ->
                "another run has taken it over, because this one gave no sign of life for %d s: %s."
                    .formatted(DEAD_AFTER_MILLIS / 1000, other.describe()))
        .orElse(
            "the lock of this run is gone: another run took the output over and has ended, or"
                + " something removed it. Run again.");
  }

  /** As it stands in the lock. */
  public byte[] toBytes() {
    String text =
        "run=%s\nhost=%s\nmachine=%s\npid=%d\nstarted=%s\nsince=%s\ndoing=%s\n"
            .formatted(run, host, machine, pid, started, since, padded(doing));
    return text.getBytes(StandardCharsets.UTF_8);
  }

  /** Of one length, so that what is written over it leaves nothing behind. */
  private static String padded(String text) {
    String ascii = text.replaceAll("[^ -~]", "?");
    return "%-120s".formatted(ascii.substring(0, Math.min(120, ascii.length())));
  }

  /** What stands in a lock; empty if it is being written, or no lock. */
  public static Optional<LockHolder> parse(byte[] content) {
    Map<String, String> fields = new LinkedHashMap<>();
    for (String line : new String(content, StandardCharsets.UTF_8).lines().toList()) {
      int equals = line.indexOf('=');
      if (equals > 0) {
        fields.put(line.substring(0, equals), line.substring(equals + 1));
      }
    }
    if (!fields.containsKey("run") || !fields.getOrDefault("pid", "").matches("\\d{1,18}")) {
      return Optional.empty();
    }
    return Optional.of(
        new LockHolder(
            fields.get("run"),
            fields.getOrDefault("host", "unknown"),
            fields.getOrDefault("machine", ""),
            Long.parseLong(fields.get("pid")),
            fields.getOrDefault("started", ""),
            fields.getOrDefault("since", "unknown"),
            fields.getOrDefault("doing", "").strip()));
  }
}
