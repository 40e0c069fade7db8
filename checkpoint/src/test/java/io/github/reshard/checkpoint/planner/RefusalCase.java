package io.github.reshard.checkpoint.planner;

import static org.assertj.core.api.Assertions.assertThatThrownBy;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.deepspeed.CheckpointFiles;
import io.github.reshard.checkpoint.deepspeed.ZeroStage;
import io.github.reshard.checkpoint.plan.ReshardPlan;
import io.github.reshard.checkpoint.storage.LocalSourceStore;
import io.github.reshard.checkpoint.torch.PickledValue;
import io.github.reshard.testing.Corpus;
import io.github.reshard.testing.EditedTorchFile;
import io.github.reshard.testing.Scratch;
import java.io.IOException;
import java.nio.file.Path;
import java.util.Optional;
import java.util.function.Consumer;
import org.assertj.core.api.AbstractThrowableAssert;
import org.junit.jupiter.api.io.TempDir;

/** A copy of a checkpoint that gets a defect, which the planner must refuse by name. */
abstract class RefusalCase {
  static final String TAG = "global_step3";

  @TempDir Path directory;

  /** Copies a case of testdata, such as {@code corpus/z1-sgd}. */
  void copyCase(String name) {
    Scratch.copyOf(Corpus.ROOT.resolveSibling(name).resolve("source"), directory);
  }

  Path file(String name) {
    return directory.resolve(TAG).resolve(name);
  }

  ReshardPlan plan(int ranks) throws IOException {
    return plan(ranks, ZeroStage.AS_SAVED);
  }

  ReshardPlan plan(int ranks, int stage) throws IOException {
    LocalSourceStore store = new LocalSourceStore();
    return ReshardPlanner.plan(
        store,
        CheckpointFiles.discover(store, directory.toString(), Optional.empty()),
        ranks,
        stage,
        1 << 20);
  }

  AbstractThrowableAssert<?, ? extends Throwable> assertRefused(int ranks) {
    return assertThatThrownBy(() -> plan(ranks)).isInstanceOf(RefusedException.class);
  }

  void edit(String name, Consumer<PickledValue> change) {
    EditedTorchFile file = new EditedTorchFile(file(name));
    change.accept(file.root());
    file.write();
  }
}
