package io.github.reshard.checkpoint.planner;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.dcp.DcpDialect;
import io.github.reshard.checkpoint.dcp.DcpWriter;
import io.github.reshard.checkpoint.dcp.DistributedCheckpoint;
import io.github.reshard.checkpoint.deepspeed.CheckpointFiles;
import io.github.reshard.checkpoint.deepspeed.KnownKind;
import io.github.reshard.checkpoint.deepspeed.UserHints;
import io.github.reshard.checkpoint.deepspeed.ZeroStage;
import io.github.reshard.checkpoint.format.CheckpointReader;
import io.github.reshard.checkpoint.format.CheckpointWriter;
import io.github.reshard.checkpoint.format.ExportRequest;
import io.github.reshard.checkpoint.format.PlanDraft;
import io.github.reshard.checkpoint.format.Target;
import io.github.reshard.checkpoint.openstate.OpenStateSource;
import io.github.reshard.checkpoint.plan.ReshardPlan;
import io.github.reshard.checkpoint.shards.UserShards;
import io.github.reshard.checkpoint.shards.UserShardsReader;
import io.github.reshard.checkpoint.shards.UserShardsWriter;
import io.github.reshard.checkpoint.storage.SourceStore;
import io.github.reshard.checkpoint.storage.TargetStore;
import io.github.reshard.checkpoint.template.Foreign;
import io.github.reshard.checkpoint.universal.UniversalFiles;
import io.github.reshard.checkpoint.universal.UniversalReader;
import io.github.reshard.checkpoint.universal.UniversalSource;
import io.github.reshard.checkpoint.universal.UniversalWriter;
import io.github.reshard.checkpoint.weights.WeightsWriter;
import io.github.reshard.checkpoint.zero12.FlatReader;
import io.github.reshard.checkpoint.zero12.FlatWriter;
import io.github.reshard.checkpoint.zero3.ShardedReader;
import io.github.reshard.checkpoint.zero3.ShardedWriter;
import java.io.FileNotFoundException;
import java.io.IOException;
import java.nio.file.NoSuchFileException;
import java.nio.file.NotDirectoryException;
import java.util.List;
import java.util.Map;
import java.util.Optional;

/** All formats. Nothing else knows more than one of them. */
public final class Formats {
  /** The {@code --outputFormat} of PyTorch's distributed checkpoints. */
  public static final String DCP = "dcp";

  /** The {@code --outputFormat} that any number of ranks loads with {@code load_universal}. */
  public static final String UNIVERSAL = "universal";

  private Formats() {}

  /** How each format is found; the first that finds something has it. */
  private static final List<Finder> READ =
      List.of(Formats::openState, Formats::shards, Formats::universalOrZero);

  /** The same of those that other trainers save. */
  private static final List<Finder> FOREIGN = List.of(Formats::foreignDistributed);

  /** How each format is written that is asked for by its name. */
  private static final Map<String, Writing> WRITTEN =
      Map.of(DCP, Formats::distributed, UNIVERSAL, Formats::universal);

  @FunctionalInterface
  private interface Finder {
    Optional<Found> find(Place place) throws IOException;
  }

  @FunctionalInterface
  private interface Writing {
    Output write(Found found, int savedRanks, Request request) throws IOException;
  }

  /**
   * The checkpoint that is at a place.
   *
   * @throws RefusedException if there is none
   */
  public static Found find(Place place) throws IOException {
    for (Finder finder : READ) {
      Optional<Found> found = finder.find(place);
      if (found.isPresent()) {
        return found.get();
      }
    }
    throw new RefusedException(place.directory(), "there is no checkpoint.");
  }

  /**
   * The checkpoint of another trainer that is at a place, if there is one.
   *
   * @throws RefusedException if it is one that is not whole or not understood
   */
  public static Optional<Found> foreign(Place place) throws IOException {
    try {
      for (Finder finder : FOREIGN) {
        Optional<Found> found = finder.find(place);
        if (found.isPresent()) {
          return found;
        }
      }
      return Optional.empty();
    } catch (NoSuchFileException | FileNotFoundException | NotDirectoryException e) {
      return Optional.empty(); // what else it may mean is found out by whoever asks
    }
  }

  private static Optional<Found> foreignDistributed(Place place) throws IOException {
    return DistributedCheckpoint.find(place.store(), place.inside())
        .map(
            found ->
                new Found(
                    place.store(),
                    CheckpointFiles.none(found.dcp().path()),
                    found.dcp().path(),
                    found.reader(),
                    stage -> PlanDraft::ofNothing,
                    Optional.empty(),
                    Optional.empty(),
                    Optional.of(found)));
  }

  private static Optional<Found> openState(Place place) throws IOException {
    if (place.tag().isPresent() || place.shards().isPresent()) {
      return Optional.empty();
    }
    return OpenStateSource.find(place.store(), place.directory()).map(Formats::openState);
  }

  /** An open training state. */
  public static Found openState(OpenStateSource state) {
    return new Found(
        state.store(),
        state.files(),
        state.files().directory(),
        ranks ->
            zeroReader(state.store(), state.files())
                .read(ranks)
                .composed(UniversalFiles.nativeTag(state.files().tag()), state.notes()),
        stage -> openStateWriter(state, stage),
        Optional.of(OpenStateSource.ODDITY),
        Optional.empty());
  }

  /** It is read as ZeRO-2's where it is ZeRO-3's. */
  private static CheckpointWriter openStateWriter(OpenStateSource state, int stage) {
    boolean sharded = stage == ZeroStage.AS_SAVED && state.stage() == 3;
    return zeroWriter(state.files(), sharded ? 3 : stage);
  }

  private static Optional<Found> shards(Place place) throws IOException {
    if (place.tag().isPresent()) {
      return Optional.empty();
    }
    return UserShards.find(place.store(), place.directory(), place.shards())
        .map(user -> shards(place.store(), user, place.hints()));
  }

  /** Shards that a user saved one by one. */
  public static Found shards(SourceStore store, UserShards user, UserHints hints) {
    return new Found(
        store,
        user.files(),
        user.directory(),
        new UserShardsReader(store, user, hints),
        stage -> new UserShardsWriter(user, hints.sanitize()),
        Optional.empty(),
        Optional.of(new Found.Bare(user.pattern(), user.shards().size())));
  }

  private static Optional<Found> universalOrZero(Place place) throws IOException {
    CheckpointFiles files;
    try {
      files = CheckpointFiles.discover(place.store(), place.directory(), place.tag());
    } catch (RefusedException e) {
      throw foreignThere(place).orElse(e);
    }
    return Optional.of(
        UniversalSource.is(files)
            ? universal(UniversalSource.of(place.store(), files))
            : zero(place.store(), files));
  }

  /** A Universal Checkpoint. */
  public static Found universal(UniversalSource source) {
    return new Found(
        source.store(),
        source.files(),
        folder(source.store(), source.files()),
        known(source.store(), source.files(), new UniversalReader(source.store(), source.files())),
        stage -> zeroWriter(source.files(), stage),
        Optional.of(UniversalSource.ODDITY),
        Optional.empty());
  }

  /** A checkpoint of {@code save_checkpoint}. */
  public static Found zero(SourceStore store, CheckpointFiles files) {
    return zero(store, files, TargetDegrees.AS_SAVED);
  }

  /** The same, for other degrees of experts and pipelines. */
  static Found zero(SourceStore store, CheckpointFiles files, TargetDegrees degrees) {
    return new Found(
        store,
        files,
        folder(store, files),
        zeroReader(store, files, degrees),
        stage -> zeroWriter(files, stage, degrees),
        Optional.empty(),
        Optional.empty());
  }

  private static String folder(SourceStore store, CheckpointFiles files) {
    return files.tag().isEmpty() ? files.directory() : store.child(files.directory(), files.tag());
  }

  private static CheckpointReader zeroReader(SourceStore store, CheckpointFiles files) {
    return zeroReader(store, files, TargetDegrees.AS_SAVED);
  }

  private static CheckpointReader zeroReader(
      SourceStore store, CheckpointFiles files, TargetDegrees degrees) {
    return known(
        store,
        files,
        isSharded(files)
            ? new ShardedReader(store, files)
            : new FlatReader(store, files, degrees.expertSize()));
  }

  private static CheckpointReader known(
      SourceStore store, CheckpointFiles files, CheckpointReader reader) {
    return ranks -> {
      KnownKind.require(store, files);
      return reader.read(ranks);
    };
  }

  static boolean isSharded(CheckpointFiles files) {
    return !files.rankModels().isEmpty();
  }

  private static CheckpointWriter zeroWriter(CheckpointFiles files, int stage) {
    return zeroWriter(files, stage, TargetDegrees.AS_SAVED);
  }

  private static CheckpointWriter zeroWriter(
      CheckpointFiles files, int stage, TargetDegrees degrees) {
    boolean sharded = stage == ZeroStage.AS_SAVED ? isSharded(files) : stage == 3;
    return sharded
        ? new ShardedWriter()
        : new FlatWriter(stage, degrees.experts(), degrees.pipeline());
  }

  /**
   * Plans a checkpoint in another format; nothing is written.
   *
   * @param savedRanks data-parallel ranks that saved it
   * @throws RefusedException if it is not sound, or the format has no place for what it has
   */
  public static Output plan(Found found, int savedRanks, Request request) throws IOException {
    return WRITTEN.get(request.format()).write(found, savedRanks, request);
  }

  /** What is said to be made where {@code format} is asked for. */
  public static String form(String format, Optional<String> dialect) {
    return format.equals(DCP) ? format + ", " + DcpDialect.of(dialect).optionName() : format;
  }

  private static Output distributed(Found found, int savedRanks, Request request)
      throws IOException {
    requireModelFiles(found, "a distributed checkpoint");
    DcpDialect dialect = DcpDialect.of(request.dialect());
    ReshardPlan plan =
        new DcpWriter(found.files(), dialect, request.files().orElse(0))
            .plan(found.reader().read(savedRanks), new Target(savedRanks, request.partBytes()));
    return new Output(plan, form(request.format(), request.dialect()), TargetStore.LATEST_DCP);
  }

  private static Output universal(Found found, int savedRanks, Request request) throws IOException {
    requireModelFiles(found, "a Universal Checkpoint");
    Optional<Integer> ranks =
        request.ranks().isPresent() ? Optional.of(request.ranks().getAsInt()) : Optional.empty();
    ReshardPlan plan =
        new UniversalWriter(ranks, request.stage())
            .plan(found.reader().read(1), new Target(1, request.partBytes()));
    return new Output(
        plan, form(request.format(), request.dialect()), TargetStore.LATEST_UNIVERSAL);
  }

  private static void requireModelFiles(Found found, String what) {
    if (found.bare().isPresent()) {
      throw new RefusedException(
          found.folder(),
          what
              + " needs the model files of save_checkpoint, which shards that were saved one by one"
              + " do not have; leave --outputFormat out.");
    }
  }

  /**
   * Plans weights as safetensors; nothing is written.
   *
   * @param savedRanks data-parallel ranks that saved the checkpoint
   * @throws RefusedException if it is not sound, or has not what was asked for
   */
  public static ReshardPlan export(Found found, int savedRanks, ExportRequest request)
      throws IOException {
    return new WeightsWriter(found.files(), request)
        .plan(found.reader().read(savedRanks), new Target(savedRanks, request.partBytes()));
  }

  /**
   * A template that a checkpoint of another trainer fills: what is read and written are its files,
   * with the training of the other one in them.
   *
   * @param path of the other one
   * @param template a checkpoint that the run which is to load saved
   * @throws RefusedException if there is no other one
   */
  public static Found filled(String path, Found template) throws IOException {
    SourceStore store = template.store();
    Foreign foreign = DistributedCheckpoint.require(store, path);
    return new Found(
        store,
        template.files(),
        template.folder(),
        template.reader(),
        stage -> foreign.onto(template.writer().apply(stage), template.files(), template.folder()),
        template.oddity(),
        template.bare());
  }

  /** What is said of a checkpoint of another trainer that is where one of DeepSpeed is expected. */
  private static Optional<RefusedException> foreignThere(Place place) {
    try {
      return foreign(place)
          .map(
              found ->
                  new RefusedException(
                      place.inside(),
                      "this is %s, which does not say all that DeepSpeed needs. Let the run that will load it save once after one step, and name the directory of that with --template. From one distributed checkpoint to another no tool is needed."
                          .formatted(found.foreign().orElseThrow().what())));
    } catch (IOException noDirectory) {
      return Optional.empty();
    }
  }

  /**
   * Checks that what was asked for means something where {@code format} is written.
   *
   * @param where the input, for messages
   * @param format its name, or empty for files of {@code save_checkpoint}
   * @param ownOptions whether options were given that are a distributed checkpoint's own
   * @param size whether a number of ranks or a ZeRO stage was given
   * @throws RefusedException if it means nothing
   */
  public static void requireMeant(
      String where, Optional<String> format, boolean ownOptions, boolean size) {
    boolean distributed = format.equals(Optional.of(DCP));
    if (!distributed && ownOptions) {
      throw new RefusedException(
          where,
          "--dialect and --filesPerCheckpoint are for --outputFormat=dcp, which is not given.");
    }
    if (distributed && size) {
      throw new RefusedException(
          where,
          "a distributed checkpoint is the same for any number of ranks and has no ZeRO stage;"
              + " leave --targetWorldSize and --targetStage out.");
    }
  }

  /** The dialects that a distributed checkpoint may be asked for in. */
  public static List<String> dialects() {
    return DcpDialect.names();
  }

  /**
   * What the output is called.
   *
   * @param format its name, or empty for files of {@code save_checkpoint}
   * @param tag of the input
   */
  public static String tag(Optional<String> format, String tag) {
    return format.equals(Optional.of(UNIVERSAL)) ? UniversalFiles.tag(tag) : tag;
  }
}
