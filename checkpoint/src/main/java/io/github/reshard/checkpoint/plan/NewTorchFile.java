package io.github.reshard.checkpoint.plan;

import io.github.reshard.checkpoint.storage.SourceStore;
import io.github.reshard.checkpoint.torch.ByteSegment;
import io.github.reshard.checkpoint.torch.StorageSize;
import io.github.reshard.checkpoint.torch.TorchFileLayout;
import java.util.List;

/**
 * A torch file that is made anew: the plan says all of it but the bytes of its storages.
 *
 * @param pickle the bytes of {@code data.pkl}
 * @param storages that it refers to, in the order in which it first does
 */
@SuppressWarnings("ArrayRecordComponent") // Never compared.
public record NewTorchFile(byte[] pickle, List<StorageSize> storages) implements Recipe {
  public NewTorchFile {
    storages = List.copyOf(storages);
  }

  @Override
  public List<ByteSegment> skeleton(
      ReshardPlan plan, SourceStore store, int target, List<Integer> crcs) {
    TargetFile file = plan.targets().get(target);
    return file.skeleton(
        TorchFileLayout.planNew(file.name(), pickle, storages),
        storages.stream().map(StorageSize::key).toList(),
        crcs);
  }
}
