package io.github.reshard.pipeline;

import io.github.reshard.checkpoint.IoReason;
import io.github.reshard.checkpoint.OutputException;
import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.follow.SharedBeside;
import io.github.reshard.checkpoint.plan.ReshardPlan;
import io.github.reshard.checkpoint.plan.SourceFile;
import io.github.reshard.checkpoint.storage.JobDirectory;
import io.github.reshard.transforms.Reshard;
import io.github.reshard.transforms.Reshards;
import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.ObjectInputStream;
import java.io.ObjectOutputStream;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.util.ArrayList;
import java.util.HexFormat;
import java.util.List;
import java.util.Optional;
import java.util.Set;
import java.util.regex.Pattern;
import java.util.stream.Collectors;

/**
 * The reshards of a job that follows a run: each is a file in the job's directory, named by its
 * key, for as long as it is under way. How it ended is another file. What fails ends one reshard
 * and not the job.
 *
 * <p>A key is {@code RUN-NUMBER-RANKS-DIGEST}: the number grows with every checkpoint, and the
 * digest is that of the file, so that nothing else is ever taken for it.
 */
final class FollowedReshards implements Reshards {
  private static final long serialVersionUID = 1L;

  /** How often a step is tried whose failure may pass. */
  static final int TRIES = 5;

  private static final String ENDED = "ended-";
  private static final int DIGEST_CHARS = 32;
  private static final Pattern KEY =
      Pattern.compile("[0-9a-f]{8}-[0-9]{8,}--?[0-9]+-[0-9a-f]{%d}".formatted(DIGEST_CHARS));

  private final JobDirectory directory;
  private final long retryMillis;

  /**
   * @param retryMillis how long to wait before the second try, in milliseconds; twice as long
   *     before each later one
   */
  FollowedReshards(JobDirectory directory, long retryMillis) {
    this.directory = directory;
    this.retryMillis = retryMillis;
  }

  /** Makes a reshard known to all workers. */
  Reshard add(String run, int number, int ranks, Reshard reshard) throws IOException {
    ByteArrayOutputStream bytes = new ByteArrayOutputStream();
    try (ObjectOutputStream out = new ObjectOutputStream(bytes)) {
      out.writeObject(reshard);
    }
    String key = "%s-%08d-%d-%s".formatted(run, number, ranks, digest(bytes.toByteArray()));
    directory.delete(ENDED + key);
    directory.put(key, bytes.toByteArray());
    return withKey(reshard, key);
  }

  private static Reshard withKey(Reshard reshard, String key) {
    return new Reshard(
        key,
        reshard.source(),
        reshard.target(),
        reshard.config(),
        reshard.planDigest(),
        reshard.manifest());
  }

  private static String digest(byte[] bytes) {
    try {
      return HexFormat.of()
          .formatHex(MessageDigest.getInstance("SHA-256").digest(bytes))
          .substring(0, DIGEST_CHARS);
    } catch (NoSuchAlgorithmException e) {
      throw new IllegalStateException("every Java has SHA-256", e);
    }
  }

  @Override
  public Optional<Reshard> find(String key) throws IOException {
    Optional<byte[]> found = directory.get(key);
    if (found.isEmpty()) {
      return Optional.empty();
    }
    if (!key.endsWith("-" + digest(found.get()))) {
      throw new OutputException(
          key, "is not what this job wrote into its directory. Something else writes there.");
    }
    try (ObjectInputStream in = new ObjectInputStream(new ByteArrayInputStream(found.get()))) {
      return Optional.of(withKey((Reshard) in.readObject(), key));
    } catch (ClassNotFoundException e) {
      throw new IOException("a reshard of another version of this program", e);
    }
  }

  /** How the reshard ended; empty if it did not. */
  Optional<ReshardEnd> end(String key) throws IOException {
    Optional<byte[]> found = directory.get(ENDED + key);
    return found.isEmpty() ? Optional.empty() : Optional.of(ReshardEnd.parse(found.get()));
  }

  /** Ends a reshard; what is left of it is dropped. */
  void end(String key, ReshardEnd end) throws IOException {
    directory.put(ENDED + key, end.toBytes());
    directory.delete(key);
  }

  /** Gives up a reshard, and removes what it wrote. */
  void abandon(String key) throws IOException {
    Optional<Reshard> reshard = find(key);
    directory.delete(key);
    reshard.ifPresent(this::abandonTarget);
  }

  /**
   * Workers may be at it at once, or still write: one that is in another's way tries again. What
   * stays all the same is unpublished, and the next job removes and names it.
   */
  private void abandonTarget(Reshard reshard) {
    for (int tries = 1; tries <= TRIES; tries++) {
      try {
        reshard.target().abandon();
        return;
      } catch (IOException | RuntimeException e) {
        if (!pause(tries)) {
          return;
        }
      }
    }
  }

  /** Removes what says how reshards ended. */
  void forgetEnds() throws IOException {
    for (String name : directory.names()) {
      if (name.startsWith(ENDED)) {
        directory.delete(name);
      }
    }
  }

  /**
   * Gives up what is under way and not in hand: a job that goes on from an earlier state has no
   * memory of it, and its outputs are held.
   *
   * @param inHand keys
   */
  void abandonStrays(String run, Set<String> inHand) throws IOException {
    Set<String> places = inHand.stream().map(FollowedReshards::place).collect(Collectors.toSet());
    for (String key : underWay(run)) {
      if (!inHand.contains(key)) {
        if (places.contains(place(key))) {
          directory.delete(key); // begun twice: the files are those of the one in hand
        } else {
          abandon(key);
        }
      }
    }
  }

  /**
   * Gives up what an earlier job left under way: its outputs may be held by a process that lives,
   * as Flink's do after a job.
   */
  void abandonEarlier() throws IOException {
    for (String key : directory.names()) {
      if (KEY.matcher(key).matches()) {
        try {
          abandon(key);
        } catch (IOException | RuntimeException e) {
          directory.delete(key); // of another version of this program, or in pieces
        }
      }
    }
  }

  /** All of a key but the digest: two reshards with the same one write the same files. */
  private static String place(String key) {
    return key.substring(0, key.lastIndexOf('-'));
  }

  /** The keys of what is under way. */
  List<String> underWay(String run) throws IOException {
    return directory.names().stream().filter(name -> name.startsWith(run + "-")).toList();
  }

  @Override
  public void published(Reshard reshard) throws IOException {
    end(reshard.key(), ReshardEnd.of(ReshardEnd.Kind.PUBLISHED, ""));
  }

  @Override
  public void refused(Reshard reshard, ReshardPlan plan, RefusedException refused)
      throws IOException {
    endRead(reshard, change(reshard, plan).orElse(refusal(refused.getMessage())));
  }

  private static ReshardEnd refusal(String message) {
    return ReshardEnd.of(ReshardEnd.Kind.REFUSED, message);
  }

  @Override
  public boolean broken(Reshard reshard, ReshardPlan plan, int tries, IOException failure)
      throws IOException {
    Optional<ReshardEnd> change = change(reshard, plan);
    if (change.isPresent()) {
      endRead(reshard, change.get());
      return false;
    }
    if (directory.get(reshard.key()).isEmpty()) {
      return false;
    }
    if (tries < TRIES) {
      return pause(tries);
    }
    endRead(reshard, refusal("cannot be read: " + IoReason.of(failure)));
    return false;
  }

  @Override
  public boolean failed(Reshard reshard, int tries, OutputException failure) throws IOException {
    if (directory.get(reshard.key()).isEmpty()) {
      return false;
    }
    if (tries < TRIES) {
      return pause(tries);
    }
    // First what it wrote: on a full disk nothing can be written down before.
    abandonTarget(reshard);
    end(reshard.key(), ReshardEnd.of(ReshardEnd.Kind.FAILED, failure.getMessage()));
    return false;
  }

  /** How long to wait before one more try. */
  long pauseMillis(int tries) {
    return retryMillis << (tries - 1);
  }

  private boolean pause(int tries) {
    try {
      Thread.sleep(pauseMillis(tries));
      return true;
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt();
      return false;
    }
  }

  /** Another step of the same reshard may have ended it meanwhile. */
  private void endRead(Reshard reshard, ReshardEnd end) throws IOException {
    if (directory.get(reshard.key()).isPresent()) {
      abandonTarget(reshard);
      end(reshard.key(), end);
    }
  }

  /** Why it is no fault of the checkpoint that it could not be read, if that is so. */
  private static Optional<ReshardEnd> change(Reshard reshard, ReshardPlan plan) {
    List<String> inTag = new ArrayList<>();
    List<String> beside = new ArrayList<>();
    for (SourceFile file : plan.sources()) {
      try {
        reshard.source().requireUnchanged(file.stat());
      } catch (RefusedException | IOException e) {
        boolean isShared =
            reshard.source() instanceof SharedBeside shared && shared.isBeside(file.stat());
        (isShared ? beside : inTag).add(file.stat().path());
      }
    }
    if (!inTag.isEmpty()) {
      return Optional.of(
          ReshardEnd.of(
              ReshardEnd.Kind.CHANGED,
              "%s changed or went while it was read".formatted(inTag.get(0))));
    }
    return beside.isEmpty()
        ? Optional.empty()
        : Optional.of(
            new ReshardEnd(
                ReshardEnd.Kind.BESIDE_CHANGED,
                "%s changed while it was read".formatted(beside.get(0)),
                beside,
                System.currentTimeMillis()));
  }

  /** Whether {@code key} is of an earlier checkpoint than {@code later}. */
  @Override
  public boolean isPast(String key, String later) {
    return number(key) < number(later);
  }

  /** That of the checkpoint that a key is of. */
  static int number(String key) {
    return Integer.parseInt(key.split("-", 3)[1]);
  }
}
