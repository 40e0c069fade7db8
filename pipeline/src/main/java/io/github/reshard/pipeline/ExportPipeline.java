package io.github.reshard.pipeline;

import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import io.github.reshard.checkpoint.OutputException;
import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.deepspeed.CheckpointFiles;
import io.github.reshard.checkpoint.format.ExportRequest;
import io.github.reshard.checkpoint.plan.ReshardPlan;
import io.github.reshard.checkpoint.planner.Formats;
import io.github.reshard.checkpoint.storage.FileStat;
import io.github.reshard.checkpoint.storage.SourceStore;
import io.github.reshard.checkpoint.storage.TargetStore;
import io.github.reshard.checkpoint.torch.DType;
import io.github.reshard.pipeline.storage.Stores;
import java.io.FileNotFoundException;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.NoSuchFileException;
import java.nio.file.NotDirectoryException;
import java.util.HashSet;
import java.util.Map;
import java.util.Optional;
import java.util.Set;

/**
 * Takes a checkpoint out of ZeRO: its weights as one directory that {@code from_pretrained} loads.
 * The graph is the main job's, and so are its proofs; only the plan is another one.
 */
public final class ExportPipeline {
  /** What a manifest calls such an output. */
  static final String FORM = "safetensors";

  /** How a type may be asked for. */
  private static final Map<String, DType> TYPES =
      Map.of("bf16", DType.BFLOAT16, "fp16", DType.FLOAT16, "fp32", DType.FLOAT32);

  private ExportPipeline() {}

  /**
   * Runs the job to its end and returns what it did.
   *
   * @throws RefusedException if the input is refused
   * @throws OutputException if the output cannot be written
   * @throws JobStagedException if the runner wrote the job down instead of running it
   */
  public static ReshardReport run(ExportOptions options, ProgressListener progress) {
    long begin = System.nanoTime();
    progress.phase("reading headers", 0);
    try {
      Job job = job(options);
      TargetStore target = target(job.plan(), options);
      target.begin();
      return ReshardPipeline.move(job, target, "moving bytes", options, progress, begin);
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }

  private static Job job(ExportOptions options) throws IOException {
    Job.requireDistinct(options.getInput(), options.getOutput());
    Source source = Source.ofInput(options);
    if (source.isBare()) {
      throw new RefusedException(
          source.location(),
          "shards that were saved one by one hold no names and shapes of weights; export the"
              + " checkpoint of save_checkpoint, or the state dict that was saved beside them.");
    }
    Job.requireApart(source, options.getOutput());
    return new Job(
        source, plan(source, options), FORM, TargetStore.LATEST, Optional.of(options.getOutput()));
  }

  static ReshardPlan plan(Source source, ExportOptions options) throws IOException {
    return Formats.export(
        source.found(),
        source.dataParallelRanks(),
        new ExportRequest(
            Optional.ofNullable(options.getDtype()).map(TYPES::get),
            options.getShardBytes(),
            Optional.ofNullable(options.getStripPrefix()),
            Optional.ofNullable(options.getOnly()),
            options.getOptimizer(),
            options.getPartBytes()));
  }

  private static TargetStore target(ReshardPlan plan, ExportOptions options) throws IOException {
    Set<String> names = earlier(options);
    names.add(CheckpointFiles.MANIFEST);
    plan.targets().forEach(file -> names.add(file.path()));
    return Stores.whole(options.getOutput(), names, options.getOverwrite(), options);
  }

  /** The files of an earlier export, which may be replaced: nobody else's are. */
  private static Set<String> earlier(ExportOptions options) throws IOException {
    Set<String> names = new HashSet<>();
    SourceStore store = Stores.source(options.getOutput(), options);
    Optional<FileStat> manifest;
    try {
      manifest =
          store.list(Stores.directory(options.getOutput())).files().stream()
              .filter(file -> file.name().equals(CheckpointFiles.MANIFEST))
              .findFirst();
    } catch (NoSuchFileException | FileNotFoundException | NotDirectoryException e) {
      return names;
    }
    if (manifest.isPresent()) {
      JsonNode root;
      try {
        root =
            new ObjectMapper()
                .readTree(store.read(manifest.get(), 0, manifest.get().bytes()).array());
      } catch (JsonProcessingException e) {
        return names; // not as this program writes it
      }
      if (root.path("output").path("form").asText().equals(FORM)) {
        root.path("output").path("files").forEach(file -> names.add(file.path("path").asText()));
      }
    }
    return names;
  }
}
