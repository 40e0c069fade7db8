package io.github.reshard.checkpoint.zero;

import io.github.reshard.checkpoint.layout.FlatLayout;
import io.github.reshard.checkpoint.layout.ShardedLayout;
import io.github.reshard.checkpoint.layout.ZeroLayout;
import io.github.reshard.checkpoint.pickle.PickleWriter;
import io.github.reshard.checkpoint.plan.PartitionedModel;
import io.github.reshard.checkpoint.plan.Recipe;
import io.github.reshard.checkpoint.plan.ReshardPlan;
import io.github.reshard.checkpoint.plan.TargetFile;
import io.github.reshard.checkpoint.storage.RangedFile;
import io.github.reshard.checkpoint.storage.SourceStore;
import io.github.reshard.checkpoint.torch.ByteSegment;
import io.github.reshard.checkpoint.torch.StorageSize;
import io.github.reshard.checkpoint.torch.TorchFile;
import io.github.reshard.checkpoint.torch.TorchFileLayout;
import java.io.IOException;
import java.nio.file.Path;
import java.util.HashMap;
import java.util.List;
import java.util.Map;

/** Target files around their payloads: pickles, zip headers and directories. */
public final class TargetFiles {
  private TargetFiles() {}

  /** A file's layout and the storages in it. */
  record Planned(TorchFileLayout layout, List<Rewritten.Storage> storages) {}

  /** Rewrites {@code template} as {@code recipe} says and lays the result out. */
  static Planned plan(
      TorchFile template,
      String fileName,
      Recipe recipe,
      List<PartitionedModel> models,
      int sourceWorldSize,
      int targetWorldSize) {
    return plan(
        template,
        fileName,
        pickled(template, recipe, models, targetWorldSize),
        sourceWorldSize,
        targetWorldSize);
  }

  /**
   * What a file says, which ranks may have in common.
   *
   * @param pickle its object graph, pickled
   * @param storages what that refers to
   * @param stage the ZeRO stage that it is turned to, or {@link Recipe#AS_SAVED}
   */
  @SuppressWarnings("ArrayRecordComponent") // Never compared.
  record Pickled(byte[] pickle, List<Rewritten.Storage> storages, int stage) {}

  static Pickled pickled(
      TorchFile template, Recipe recipe, List<PartitionedModel> models, int targetWorldSize) {
    Rewritten rewritten = rewrite(template, recipe, models, targetWorldSize);
    return new Pickled(
        PickleWriter.write(rewritten.root(), template.parse().protocol()),
        rewritten.storages(),
        stage(recipe));
  }

  /** Lays out a file that says {@code content}. */
  static Planned plan(
      TorchFile template,
      String fileName,
      Pickled content,
      int sourceWorldSize,
      int targetWorldSize) {
    byte[] pickle = content.pickle();
    List<StorageSize> sizes =
        content.storages().stream().map(s -> new StorageSize(s.key(), s.bytes())).toList();
    byte[] serializationId =
        sourceWorldSize == targetWorldSize
                && content.stage() == Recipe.AS_SAVED
                && template.serializationId().isPresent()
            ? template.serializationId().get()
            : TorchFileLayout.serializationId(pickle, sizes);
    return new Planned(
        TorchFileLayout.plan(
            template.style(), archiveName(template, fileName), pickle, sizes, serializationId),
        content.storages());
  }

  private static Rewritten rewrite(
      TorchFile template, Recipe recipe, List<PartitionedModel> models, int targetWorldSize) {
    if (recipe instanceof Recipe.PlainObjects plain) {
      return PlainObjects.in(
          template.path(), rewrite(template, plain.of(), models, targetWorldSize));
    }
    if (recipe instanceof Recipe.OptimizerFile optimizer) {
      return OptimizerRewrite.rewrite(
          template,
          optimizer.groups().stream()
              .map(
                  ref ->
                      OptimizerRewrite.Group.of(
                          models.get(ref.model()),
                          flat(models.get(ref.model()).target()),
                          ref.group()))
              .toList(),
          optimizer.rank(),
          optimizer.stage());
    }
    if (recipe instanceof Recipe.ModelFile model) {
      return ModelRewrite.rewrite(
          template,
          model.groups().stream()
              .map(
                  ref ->
                      new ModelRewrite.Group(
                          flat(models.get(ref.model()).source()),
                          flat(models.get(ref.model()).target()),
                          ref.group()))
              .toList(),
          targetWorldSize,
          model.stage());
    }
    if (recipe instanceof Recipe.ShardedOptimizerFile optimizer) {
      PartitionedModel partitioned = models.get(optimizer.model());
      return ShardedOptimizerRewrite.rewrite(
          template,
          sharded(partitioned.source()),
          sharded(partitioned.target()),
          optimizer.dsIds());
    }
    if (recipe instanceof Recipe.ShardedModelFile model) {
      PartitionedModel partitioned = models.get(model.model());
      return ShardedModelRewrite.rewrite(
          template,
          sharded(partitioned.source()),
          sharded(partitioned.target()),
          model.frozen() == Recipe.ShardedModelFile.NONE_FROZEN
              ? new ShardedLayout(targetWorldSize, List.of(), 0)
              : sharded(models.get(model.frozen()).target()),
          model.sharesParameters());
    }
    if (recipe instanceof Recipe.ConvertedOptimizerFile optimizer) {
      PartitionedModel partitioned = models.get(optimizer.model());
      return optimizer.stage() == 3
          ? StageRewrite.shardedOptimizer(
              template, sharded(partitioned.target()), optimizer.dsIds())
          : StageRewrite.flatOptimizer(
              template,
              sharded(partitioned.source()),
              flat(partitioned.target()),
              optimizer.rank(),
              optimizer.stage());
    }
    if (recipe instanceof Recipe.ConvertedModelFile model) {
      PartitionedModel partitioned = models.get(model.model());
      ShardedLayout frozen =
          model.frozen() == Recipe.ShardedModelFile.NONE_FROZEN
              ? new ShardedLayout(1, List.of(), 0)
              : sharded(models.get(model.frozen()).target());
      return model.stage() == 3
          ? StageRewrite.shardedModel(
              template, sharded(partitioned.target()), frozen, model.rank() == 0)
          : StageRewrite.flatModel(template, flat(partitioned.target()), frozen, model.stage());
    }
    throw new IllegalArgumentException("a file that is copied as it is has no layout: " + recipe);
  }

  private static int stage(Recipe recipe) {
    if (recipe instanceof Recipe.OptimizerFile optimizer) {
      return optimizer.stage();
    }
    if (recipe instanceof Recipe.ModelFile model) {
      return model.stage();
    }
    if (recipe instanceof Recipe.ConvertedOptimizerFile optimizer) {
      return optimizer.stage();
    }
    return recipe instanceof Recipe.ConvertedModelFile model ? model.stage() : Recipe.AS_SAVED;
  }

  private static FlatLayout flat(ZeroLayout layout) {
    if (layout instanceof FlatLayout flat) {
      return flat;
    }
    throw new IllegalArgumentException("a file of ZeRO-1 or 2 cannot hold " + layout);
  }

  private static ShardedLayout sharded(ZeroLayout layout) {
    if (layout instanceof ShardedLayout sharded) {
      return sharded;
    }
    throw new IllegalArgumentException("a file of ZeRO-3 cannot hold " + layout);
  }

  /**
   * {@code torch.save} names the archive after the file; what was named otherwise keeps its name.
   */
  private static String archiveName(TorchFile template, String fileName) {
    String stem = stem(Path.of(template.path()).getFileName().toString());
    return template.archiveName().equals(stem) ? stem(fileName) : template.archiveName();
  }

  private static String stem(String fileName) {
    int dot = fileName.lastIndexOf('.');
    return dot < 0 ? fileName : fileName.substring(0, dot);
  }

  /**
   * Every byte of a target file that is not payload.
   *
   * @param crcs for each entry of the file, the CRC-32 of its payload
   * @return none for a file that is copied as it is
   */
  public static List<ByteSegment> skeleton(
      ReshardPlan plan, SourceStore store, int target, List<Integer> crcs) throws IOException {
    TargetFile file = plan.targets().get(target);
    if (file.recipe() instanceof Recipe.AsIs) {
      return List.of();
    }
    String name = file.path().substring(file.path().lastIndexOf('/') + 1);
    if (file.recipe() instanceof Recipe.NewTorchFile made) {
      return segments(
          file,
          TorchFileLayout.planNew(name, made.pickle(), made.storages()),
          made.storages().stream().map(StorageSize::key).toList(),
          crcs);
    }
    TorchFile template;
    try (RangedFile source = store.open(plan.sources().get(file.recipe().template()).stat())) {
      template = TorchFile.read(source);
    }
    Planned planned =
        plan(
            template,
            name,
            file.recipe(),
            plan.models(),
            plan.sourceWorldSize(),
            plan.targetWorldSize());
    return segments(
        file,
        planned.layout(),
        planned.storages().stream().map(Rewritten.Storage::key).toList(),
        crcs);
  }

  /**
   * @param keys of all storages; those of 0 bytes are no entries of the file
   */
  private static List<ByteSegment> segments(
      TargetFile file, TorchFileLayout layout, List<String> keys, List<Integer> crcs) {
    if (layout.totalBytes() != file.bytes()) {
      throw new IllegalStateException(
          "%s was planned with %d bytes and now has %d"
              .formatted(file.path(), file.bytes(), layout.totalBytes()));
    }
    Map<String, Integer> byKey = new HashMap<>();
    keys.forEach(empty -> byKey.put(empty, 0));
    for (int e = 0; e < crcs.size(); e++) {
      byKey.put(file.entries().get(e).key(), crcs.get(e));
    }
    return layout.segments(byKey);
  }
}
