package io.github.reshard.checkpoint.planner;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatCode;

import io.github.reshard.checkpoint.deepspeed.ZeroStage;
import io.github.reshard.checkpoint.pickle.PyEntries;
import io.github.reshard.checkpoint.pickle.PyNone;
import io.github.reshard.checkpoint.pickle.PyStr;
import io.github.reshard.checkpoint.torch.PickledValue;
import io.github.reshard.checkpoint.torch.TensorNode;
import io.github.reshard.checkpoint.zero12.OptimizerStates;
import io.github.reshard.testing.EditedTorchFile;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;

/** One defect a test, made in a mixture of experts that DeepSpeed before 0.19.3 saved. */
class ExpertGroupsRefusalTest extends RefusalCase {
  private static final String MODEL = "mp_rank_00_model_states.pt";
  private static final String EXPERT_3 = "layer_0_expert_3_mp_rank_00_model_states.pt";
  private static final String FC = "moe.deepspeed_moe.experts.deepspeed_experts.3.fc.weight";
  private static final String CUT = "moe-deepspeed-0.9.5";
  private static final String MENDED = "moe-deepspeed-0.16.9";

  private static String shard(String prefix, int rank) {
    return prefix + "zero_pp_rank_" + rank + "_mp_rank_00_optim_states.pt";
  }

  @Test
  void aMissingExpertIsNamed() throws IOException {
    for (String name : List.of(CUT, MENDED)) {
      copyCase("field/" + name);
      Files.delete(file(EXPERT_3));

      assertRefused(8).hasMessageContaining(EXPERT_3);
      deleteAll();
    }
  }

  private void deleteAll() throws IOException {
    try (Stream<Path> files = Files.walk(directory)) {
      for (Path file : files.filter(Files::isRegularFile).toList()) {
        Files.delete(file);
      }
    }
  }

  @Test
  void aMappingOfAnUnknownParameterIsRefused() throws IOException {
    copyCase("field/" + MENDED);
    for (int rank = 0; rank < 4; rank++) {
      edit(
          shard("", rank),
          root ->
              root.get("optimizer_state_dict")
                  .get("param_slice_mappings")
                  .items()
                  .forEach(group -> rename(group, "ln.weight", "norm.weight")));
    }

    assertRefused(8).hasMessageContaining("norm.weight").hasMessageContaining(MODEL);
  }

  private static void rename(PickledValue dict, String from, String to) {
    List<PyEntries.Entry> entries = dict.entries().list();
    entries.replaceAll(
        e ->
            e.key() instanceof PyStr key && key.value().equals(from)
                ? new PyEntries.Entry(new PyStr(to), e.value())
                : e);
  }

  @Test
  void anExpertOfAnotherShapeIsRefused() throws IOException {
    for (String name : List.of(CUT, MENDED)) {
      copyCase("field/" + name);
      edit(EXPERT_3, root -> reshape(root.get(FC).tensor()));

      assertRefused(8).hasMessageContaining(EXPERT_3).hasMessageContaining("[12, 20]");
      deleteAll();
    }
  }

  private static void reshape(TensorNode tensor) {
    tensor.setGeometry(0, new long[] {tensor.shape()[1], tensor.shape()[0]});
  }

  @Test
  void aDenseParameterThatTheModuleLacksIsRefused() throws IOException {
    copyCase("field/" + CUT);
    edit(MODEL, root -> rename(root.get("module"), "head.weight", "other.weight"));

    assertRefused(8).hasMessageContaining("head.weight").hasMessageContaining(MODEL);
  }

  @Test
  void mastersThatAreNotTheExpertsAreRefused() throws IOException {
    copyCase("field/" + CUT);
    EditedTorchFile expert = new EditedTorchFile(file(EXPERT_3));
    String key = expert.root().get(FC).tensor().storageKey();
    expert.storage(key).put(0, (byte) (expert.storage(key).get(0) ^ 1));
    expert.write();

    assertRefused(8).hasMessageContaining("do not give the weights of the experts");
  }

  @Test
  void shardsWithoutMappingsAreRefused() throws IOException {
    copyCase("field/" + MENDED);
    for (int rank = 0; rank < 4; rank++) {
      edit(
          shard("", rank),
          root ->
              root.get("optimizer_state_dict")
                  .entries()
                  .replace("param_slice_mappings", PyNone.NONE));
    }

    assertRefused(8).hasMessageContaining("param_slice_mappings");
  }

  @Test
  void equalExpertsInAnOrderThatIsNotSavedAreRefusedOnlyIfTheirStatesDiffer() throws IOException {
    copyCase("field/" + "moe-untrained-0.9.5");
    assertThatCode(() -> plan(8, ZeroStage.AS_SAVED)).doesNotThrowAnyException();

    String name = shard("bf16_", 2);
    EditedTorchFile last = new EditedTorchFile(file(name));
    TensorNode moment = new OptimizerStates(last.root()).tensors(1).get(0).tensor();
    assertThat(moment.numel()).isGreaterThan(1);
    last.storage(moment.storageKey()).put(4, (byte) 1);
    last.write();

    assertRefused(8).hasMessageContaining("in two places").hasMessageContaining("0.14.5");
  }
}
