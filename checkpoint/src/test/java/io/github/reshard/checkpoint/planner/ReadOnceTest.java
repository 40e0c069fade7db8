package io.github.reshard.checkpoint.planner;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.deepspeed.UserHints;
import io.github.reshard.checkpoint.deepspeed.ZeroStage;
import io.github.reshard.checkpoint.pickle.PyStr;
import io.github.reshard.checkpoint.plan.ReshardPlan;
import io.github.reshard.checkpoint.storage.FileStat;
import io.github.reshard.checkpoint.storage.LocalSourceStore;
import io.github.reshard.checkpoint.storage.RangedFile;
import io.github.reshard.checkpoint.storage.SourceStore;
import io.github.reshard.testing.EditedTorchFile;
import io.github.reshard.testing.GoldenCase;
import io.github.reshard.testing.SourceCopy;
import java.io.IOException;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.Optional;
import java.util.Set;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;
import org.junit.jupiter.params.provider.ValueSource;

/** Plans for several numbers of ranks of metadata that is read once. */
class ReadOnceTest {
  private static final long PART_BYTES = 1 << 20;

  private final List<String> opened = Collections.synchronizedList(new ArrayList<>());
  private final SourceStore store = new NotingStore(new LocalSourceStore(), opened);

  /** Notes which files are opened. */
  private record NotingStore(SourceStore of, List<String> opened) implements SourceStore {
    private static final long serialVersionUID = 1L;

    @Override
    public Listing list(String directory) throws IOException {
      return of.list(directory);
    }

    @Override
    public RangedFile open(FileStat file) throws IOException {
      opened.add(file.path());
      return of.open(file);
    }

    @Override
    public String child(String directory, String name) {
      return of.child(directory, name);
    }
  }

  static List<GoldenCase> cases() {
    return GoldenCase.all();
  }

  private Found found(Path directory, String tag) throws IOException {
    return Formats.find(
        new Place(store, directory.toString(), Optional.of(tag), Optional.empty(), UserHints.NONE));
  }

  private static ReshardPlan plan(Found found, int ranks) throws IOException {
    return found.plan(ranks, ZeroStage.AS_SAVED, PART_BYTES);
  }

  @ParameterizedTest
  @MethodSource("cases")
  void plansAreThoseOfAReadingForEachSize(GoldenCase golden) throws IOException {
    Found found = found(golden.source(), golden.tag());
    Found once = found.readOnce();

    for (int times : new int[] {4, 1, 3}) {
      int ranks = times * golden.expertParallelSize();
      assertThat(plan(once, ranks)).usingRecursiveComparison().isEqualTo(plan(found, ranks));
    }
  }

  @ParameterizedTest
  @ValueSource(strings = {"z2-bf16-clip", "z3-bf16-subgroups", "moe-z2-ep2"})
  void headersAreNotReadAgainForAnotherSize(String name) throws IOException {
    GoldenCase golden = GoldenCase.of(name);
    Found once = found(golden.source(), golden.tag()).readOnce();
    plan(once, 4);
    opened.clear();
    plan(once, 8);

    // A writer may ask one shard for a number that is not in its header.
    assertThat(Set.copyOf(opened)).hasSizeLessThanOrEqualTo(1);
    assertThat(opened).noneMatch(path -> path.endsWith("model_states.pt"));
  }

  @Test
  void whatIsUncertainAtAnotherSizeIsRefusedThere(@TempDir Path directory) throws IOException {
    SourceCopy copy = SourceCopy.of(GoldenCase.of("z3-bf16-subgroups"), directory);
    for (int rank = 0; rank < 2; rank++) {
      EditedTorchFile model =
          new EditedTorchFile(
              copy.file("zero_pp_rank_%d_mp_rank_00_model_states.pt".formatted(rank)));
      model.root().entries().replace("ds_config", new PyStr("ds.json"));
      model.write();
    }
    Found once = found(directory, copy.tag()).readOnce();

    assertThat(plan(once, 2).notes()).anyMatch(note -> note.contains("at 2 ranks"));
    assertThatThrownBy(() -> plan(once, 1))
        .isInstanceOf(RefusedException.class)
        .hasMessageContaining("sub_group_size may be anything from");
    assertThat(plan(once, 2).notes()).anyMatch(note -> note.contains("at 2 ranks"));
  }
}
