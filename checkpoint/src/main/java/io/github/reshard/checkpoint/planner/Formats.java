package io.github.reshard.checkpoint.planner;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.dcp.DcpCheckpoint;
import io.github.reshard.checkpoint.dcp.DcpDialect;
import io.github.reshard.checkpoint.dcp.DcpMetadata;
import io.github.reshard.checkpoint.deepspeed.CheckpointFiles;
import io.github.reshard.checkpoint.deepspeed.KnownKind;
import io.github.reshard.checkpoint.deepspeed.UserHints;
import io.github.reshard.checkpoint.deepspeed.ZeroStage;
import io.github.reshard.checkpoint.format.CheckpointReader;
import io.github.reshard.checkpoint.format.CheckpointWriter;
import io.github.reshard.checkpoint.format.Target;
import io.github.reshard.checkpoint.openstate.OpenStateSource;
import io.github.reshard.checkpoint.plan.ReshardPlan;
import io.github.reshard.checkpoint.shards.UserShards;
import io.github.reshard.checkpoint.shards.UserShardsReader;
import io.github.reshard.checkpoint.shards.UserShardsWriter;
import io.github.reshard.checkpoint.storage.SourceStore;
import io.github.reshard.checkpoint.storage.TargetStore;
import io.github.reshard.checkpoint.universal.UniversalFiles;
import io.github.reshard.checkpoint.universal.UniversalReader;
import io.github.reshard.checkpoint.universal.UniversalSource;
import io.github.reshard.checkpoint.universal.UniversalWriter;
import io.github.reshard.checkpoint.weights.ExportRequest;
import io.github.reshard.checkpoint.weights.WeightsWriter;
import io.github.reshard.checkpoint.zero12.FlatReader;
import io.github.reshard.checkpoint.zero12.FlatWriter;
import io.github.reshard.checkpoint.zero3.ShardedReader;
import io.github.reshard.checkpoint.zero3.ShardedWriter;
import java.io.IOException;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.Optional;

/** All formats. Nothing else knows more than one of them. */
public final class Formats {
  private static final String DCP = "dcp";
  private static final String SAFETENSORS = ".safetensors";
  private static final String UNIVERSAL = "universal";

  private Formats() {}

  /** How each format is found; the first that finds something has it. */
  private static final List<Finder> READ =
      List.of(Formats::openState, Formats::shards, Formats::universalOrZero);

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
   * Where a checkpoint is looked for.
   *
   * @param store reads the files there
   * @param directory where
   * @param tag the checkpoint inside it, or empty for what {@code latest} says
   * @param shards the names of shards that were saved one by one, if they were said
   * @param hints what the user adds to such shards
   */
  public record Place(
      SourceStore store,
      String directory,
      Optional<String> tag,
      Optional<String> shards,
      UserHints hints) {}

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
        stage ->
            zeroWriter(
                state.files(), stage == ZeroStage.AS_SAVED && state.stage() == 3 ? 3 : stage),
        Optional.of(OpenStateSource.ODDITY),
        Optional.empty());
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
      throw distributedThere(place).orElse(e);
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
            : new FlatReader(store, files, degrees.experts()));
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
    return format.equals(DCP) ? format + ", " + dialect(dialect).optionName() : format;
  }

  private static DcpDialect dialect(Optional<String> name) {
    return Arrays.stream(DcpDialect.values())
        .filter(of -> Optional.of(of.optionName()).equals(name))
        .findFirst()
        .orElse(DcpDialect.TORCH);
  }

  private static Output distributed(Found found, int savedRanks, Request request)
      throws IOException {
    requireModelFiles(found, "a distributed checkpoint");
    DcpDialect dialect = dialect(request.dialect());
    ReshardPlan plan =
        new DcpPlanner(found.files(), dialect, request.files().orElse(0))
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
   * Plans files of DeepSpeed, made of a distributed checkpoint; nothing is written.
   *
   * @param path of that
   * @param template a checkpoint that the run which is to load them saved
   * @param stage the ZeRO stage, or {@link ZeroStage#AS_SAVED}
   * @throws RefusedException if there is no distributed checkpoint, or the two are not of one model
   *     and optimizer
   */
  public static ReshardPlan ofDistributed(
      String path, Found template, int targetWorldSize, int stage, long partBytes)
      throws IOException {
    SourceStore store = template.store();
    Optional<DcpCheckpoint> distributed = DcpCheckpoint.find(store, path);
    if (distributed.isEmpty()
        && store.list(path).files().stream().anyMatch(f -> f.name().endsWith(SAFETENSORS))) {
      throw new RefusedException(
          path,
          "holds safetensors, as PyTorch's HuggingFaceStorageWriter and save_pretrained write them:"
              + " weights alone, and no optimizer's state is made up. Load them into the model"
              + " before deepspeed.initialize; no template is needed for that.");
    }
    DcpCheckpoint dcp =
        distributed.orElseThrow(
            () ->
                new RefusedException(
                    path,
                    "expected a distributed checkpoint of PyTorch, which has a file %s, found none. --template is for these; leave it out for a checkpoint of DeepSpeed, or name the directory of one step, or its name with --tag."
                        .formatted(DcpMetadata.FILE_NAME)));
    DcpPlanner.requireOneModel(template.files(), template.folder());
    return DcpReader.plan(
        store, dcp, template.files(), template.plan(targetWorldSize, stage, partBytes));
  }

  /** What is said of a distributed checkpoint that is where another one is expected. */
  private static Optional<RefusedException> distributedThere(Place place) {
    String path =
        place.tag().isEmpty()
            ? place.directory()
            : place.store().child(place.directory(), place.tag().get());
    try {
      if (DcpCheckpoint.find(place.store(), path).isEmpty()) {
        return Optional.empty();
      }
    } catch (IOException noDirectory) {
      return Optional.empty();
    }
    return Optional.of(
        new RefusedException(
            path,
            "this is a distributed checkpoint of PyTorch, which does not say all that DeepSpeed"
                + " needs. Let the run that will load it save once after one step, and name the"
                + " directory of that with --template. From one distributed checkpoint to another"
                + " no tool is needed."));
  }
}
