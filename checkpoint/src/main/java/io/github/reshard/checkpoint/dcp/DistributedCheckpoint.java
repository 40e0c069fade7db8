package io.github.reshard.checkpoint.dcp;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.deepspeed.CheckpointFiles;
import io.github.reshard.checkpoint.format.CheckpointReader;
import io.github.reshard.checkpoint.format.CheckpointWriter;
import io.github.reshard.checkpoint.format.TrainingState;
import io.github.reshard.checkpoint.plan.ReshardPlan;
import io.github.reshard.checkpoint.storage.SourceStore;
import io.github.reshard.checkpoint.template.Comparison;
import io.github.reshard.checkpoint.template.Contents;
import io.github.reshard.checkpoint.template.Foreign;
import java.io.FileNotFoundException;
import java.io.IOException;
import java.nio.file.NoSuchFileException;
import java.nio.file.NotDirectoryException;
import java.util.Optional;

/**
 * A distributed checkpoint of PyTorch as other formats see it.
 *
 * @param store reads its files
 * @param dcp what was found
 */
public record DistributedCheckpoint(SourceStore store, DcpCheckpoint dcp) implements Foreign {
  private static final String SAFETENSORS = ".safetensors";

  /**
   * What lies at {@code path}, if it is one.
   *
   * @throws RefusedException if it is one that is not whole or not understood
   */
  public static Optional<DistributedCheckpoint> find(SourceStore store, String path)
      throws IOException {
    return DcpCheckpoint.find(store, path).map(dcp -> new DistributedCheckpoint(store, dcp));
  }

  /**
   * What lies at {@code path}, where one is to fill a template.
   *
   * @throws RefusedException if it is none
   */
  public static DistributedCheckpoint require(SourceStore store, String path) throws IOException {
    Optional<DistributedCheckpoint> found;
    try {
      found = find(store, path);
    } catch (NoSuchFileException | FileNotFoundException | NotDirectoryException e) {
      throw new RefusedException(path, "there is no such directory.", e);
    }
    if (found.isEmpty()
        && store.list(path).files().stream().anyMatch(f -> f.name().endsWith(SAFETENSORS))) {
      throw new RefusedException(
          path,
          "holds safetensors, as PyTorch's HuggingFaceStorageWriter and save_pretrained write them:"
              + " weights alone, and no optimizer's state is made up. Load them into the model"
              + " before deepspeed.initialize; no template is needed for that.");
    }
    return found.orElseThrow(
        () ->
            new RefusedException(
                path,
                "expected a distributed checkpoint of PyTorch, which has a file %s, found none. --template is for these; leave it out for a checkpoint of DeepSpeed, or name the directory of one step, or its name with --tag."
                    .formatted(DcpMetadata.FILE_NAME)));
  }

  @Override
  public String what() {
    return "a distributed checkpoint of PyTorch";
  }

  @Override
  public Contents contents() {
    return DcpContents.of(dcp);
  }

  /** Reads and proves all of it. */
  public CheckpointReader reader() {
    return new DcpReader(store, dcp);
  }

  @Override
  public CheckpointWriter onto(CheckpointWriter writer, CheckpointFiles template, String where) {
    DcpWriter.requireOneModel(template, where);
    return new TemplateWriter(dcp, template, writer);
  }

  @Override
  public Comparison compare(TrainingState other, ReshardPlan plan, CheckpointFiles files)
      throws IOException {
    return DcpComparison.of(dcp, other, plan, files);
  }

  @Override
  public Comparison compare(Foreign other) throws IOException {
    if (!(other instanceof DistributedCheckpoint second)) {
      throw new RefusedException(
          dcp.path(),
          "this is %s, and the other one is %s: their tensors have no names in common."
              .formatted(what(), other.what()));
    }
    return DcpPair.compare(
        new DcpPair.Side(store, dcp), new DcpPair.Side(second.store, second.dcp));
  }
}
