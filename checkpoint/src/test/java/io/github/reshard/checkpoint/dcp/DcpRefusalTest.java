package io.github.reshard.checkpoint.dcp;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.deepspeed.ZeroStage;
import io.github.reshard.checkpoint.pickle.PickleReader;
import io.github.reshard.checkpoint.pickle.PickleWriter;
import io.github.reshard.checkpoint.pickle.PyDict;
import io.github.reshard.checkpoint.pickle.PyEntries;
import io.github.reshard.checkpoint.pickle.PyGlobal;
import io.github.reshard.checkpoint.pickle.PyInstance;
import io.github.reshard.checkpoint.pickle.PyNone;
import io.github.reshard.checkpoint.pickle.PyObject;
import io.github.reshard.checkpoint.pickle.PyStr;
import io.github.reshard.checkpoint.pickle.PyTuple;
import io.github.reshard.checkpoint.storage.LocalSourceStore;
import io.github.reshard.testing.GoldenCase;
import io.github.reshard.testing.Scratch;
import io.github.reshard.testing.WithoutBeam;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.function.UnaryOperator;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** What cannot come along with a template is refused by its name. */
class DcpRefusalTest {
  private static final GoldenCase TWO_GROUPS = GoldenCase.of("z2-fp32-twogroups");

  @TempDir Path scratch;

  private Path dcp(GoldenCase golden, DcpDialect dialect) {
    Path output = scratch.resolve("dcp");
    WithoutBeam.toDcp(golden.source(), output, dialect, 1);
    return output.resolve(golden.tag());
  }

  private void refuses(Path dcp, GoldenCase template, String... words) {
    assertThatThrownBy(
            () ->
                WithoutBeam.fromDcp(
                    dcp, template.source(), scratch.resolve("out"), 2, ZeroStage.AS_SAVED))
        .isInstanceOf(RefusedException.class)
        .message()
        .contains(words);
    assertThat(scratch.resolve("out").resolve("global_step3")).doesNotExist();
  }

  /** Gives keys of {@code .metadata} other names, wherever they stand. */
  private static void rename(Path dcp, UnaryOperator<String> name) throws IOException {
    Path file = dcp.resolve(".metadata");
    PyObject root = PickleReader.read(Files.readAllBytes(file), "test").root();
    PyEntries fields = fields(root);
    for (String dict : List.of("state_dict_metadata", "planner_data")) {
      List<PyEntries.Entry> entries = ((PyDict) fields.get(dict)).entries().list();
      entries.replaceAll(
          e -> new PyEntries.Entry(new PyStr(name.apply(((PyStr) e.key()).value())), e.value()));
    }
    for (PyEntries.Entry entry : ((PyDict) fields.get("storage_data")).entries()) {
      PyEntries index = fields(entry.key());
      index.replace("fqn", new PyStr(name.apply(((PyStr) index.get("fqn")).value())));
    }
    Files.write(file, PickleWriter.write(root, 2));
  }

  private static PyEntries fields(PyObject made) {
    return ((PyDict) ((PyInstance) made).state()).entries();
  }

  private static UnaryOperator<String> renaming(String from, String to) {
    return key -> key.equals(from) ? to : key;
  }

  /** Both have tensors of the same shapes at the same bytes, so that nothing else tells them. */
  @Test
  void dataFilesThatWereExchanged() throws IOException {
    GoldenCase golden = GoldenCase.of("z2-bf16-clip");
    Path output = scratch.resolve("dcp");
    WithoutBeam.toDcp(golden.source(), output, DcpDialect.TORCH, 6);
    Path dcp = output.resolve(golden.tag());
    Path one = dcp.resolve("__1_0.distcp");
    Path other = dcp.resolve("__3_0.distcp");
    assertThat(Files.size(one)).isEqualTo(Files.size(other));
    Path aside = scratch.resolve("aside");
    Files.move(one, aside);
    Files.move(other, one);
    Files.move(aside, other);
    refuses(dcp, golden, "expected the archive __", "The file was exchanged with another one");
  }

  /** Of the same model and at the same bytes, but saved at another time. */
  @Test
  void aDataFileOfAnotherCheckpoint() throws IOException {
    GoldenCase golden = GoldenCase.of("z2-bf16-clip");
    Path output = scratch.resolve("dcp");
    WithoutBeam.toDcp(golden.source(), output, DcpDialect.TORCH, 6);
    Path later = scratch.resolve("later");
    Path source = scratch.resolve("source");
    Scratch.copyOf(golden.source(), source);
    try (Stream<Path> files = Files.walk(source)) {
      for (Path file : files.filter(p -> p.toString().endsWith("_states.pt")).toList()) {
        Scratch.rewrite(file, root -> {}, (key, bytes) -> Arrays.fill(bytes, (byte) 0));
      }
    }
    WithoutBeam.toDcp(source, later, DcpDialect.TORCH, 6);
    Path dcp = output.resolve(golden.tag());
    Path other = later.resolve(golden.tag()).resolve("__3_0.distcp");
    assertThat(Files.size(dcp.resolve("__3_0.distcp"))).isEqualTo(Files.size(other));
    Files.copy(other, dcp.resolve("__3_0.distcp"), StandardCopyOption.REPLACE_EXISTING);
    refuses(dcp, golden, "expected the archive __3_0-reshard-", "was exchanged with another one");
  }

  /**
   * As of a file that PyTorch saved: the archives of its data files are all called alike, and
   * nothing else tells two that lie there under each other's names.
   */
  @Test
  void aDataFileUnderTwoNames() throws IOException {
    GoldenCase golden = GoldenCase.of("z2-bf16-clip");
    Path output = scratch.resolve("dcp");
    WithoutBeam.toDcp(golden.source(), output, DcpDialect.TORCH, 6);
    Path dcp = output.resolve(golden.tag());
    Path metadata = dcp.resolve(".metadata");
    PyObject root = PickleReader.read(Files.readAllBytes(metadata), "test").root();
    fields(root).replace("storage_meta", PyNone.NONE);
    Files.write(metadata, PickleWriter.write(root, 2));
    Files.copy(
        dcp.resolve("__1_0.distcp"),
        dcp.resolve("__3_0.distcp"),
        StandardCopyOption.REPLACE_EXISTING);
    refuses(dcp, golden, "__3_0.distcp", "holds the same bytes as __1_0.distcp");
  }

  @Test
  void otherParamGroups() {
    refuses(
        dcp(TWO_GROUPS, DcpDialect.TORCH),
        GoldenCase.of("z1-bf16"),
        "param group 0 has",
        "Make the template with the same param groups");
  }

  @Test
  void parametersOfOneGroupWithOtherOptions() {
    refuses(
        dcp(TWO_GROUPS, DcpDialect.TORCH_FLAT),
        GoldenCase.of("z1-bf16"),
        "have another 'lr', and are in one param group in the template");
  }

  @Test
  void anotherOptimizer() {
    refuses(
        dcp(GoldenCase.of("z1-sgd"), DcpDialect.TORCH),
        GoldenCase.of("z1-bf16"),
        "expected the optimizer's states under keys that end in 'state.emb.weight.exp_avg'");
  }

  @Test
  void statesThatTheTemplateHasNot() throws IOException {
    Path dcp = dcp(TWO_GROUPS, DcpDialect.TORCH);
    rename(dcp, renaming("global_steps", "optim.state.head.weight.max_exp_avg_sq"));
    refuses(dcp, TWO_GROUPS, "the optimizer keeps [max_exp_avg_sq] of head.weight");
  }

  @Test
  void aStateThatIsMissing() throws IOException {
    Path dcp = dcp(TWO_GROUPS, DcpDialect.TORCH);
    rename(dcp, renaming("optim.state.head.weight.exp_avg", "elsewhere"));
    refuses(dcp, TWO_GROUPS, "has no 'optim.state.head.weight.exp_avg'");
  }

  @Test
  void aParameterThatTheTemplateHasNot() throws IOException {
    Path dcp = dcp(TWO_GROUPS, DcpDialect.TORCH);
    rename(dcp, renaming("model.scale", "model.zoom"));
    refuses(dcp, TWO_GROUPS, "model.scale");
  }

  @Test
  void aBufferMore() throws IOException {
    Path dcp = dcp(TWO_GROUPS, DcpDialect.TORCH);
    rename(dcp, renaming("optim.state.head.weight.exp_avg_sq", "model.more"));
    refuses(dcp, TWO_GROUPS, "the model has [more], which the template does not have");
  }

  @Test
  void aModelTwice() throws IOException {
    Path dcp = dcp(TWO_GROUPS, DcpDialect.TORCH);
    rename(
        dcp,
        key ->
            key.startsWith("optim.state.") && key.endsWith(".exp_avg_sq")
                ? "ema." + key.substring("optim.state.".length()).replace(".exp_avg_sq", "")
                : key);
    refuses(dcp, TWO_GROUPS, "the weights of the model more than once", "[ema., model.]");
  }

  @Test
  void trainedHereAndNotInTheTemplate() throws IOException {
    Path dcp = dcp(TWO_GROUPS, DcpDialect.TORCH);
    rename(dcp, renaming("optim.state.head.weight.exp_avg_sq", "optim.state.scale.exp_avg"));
    refuses(
        dcp, TWO_GROUPS, "the optimizer has states of scale, which the template does not train");
  }

  @Test
  void flatParametersOfFsdp1() throws IOException {
    Path dcp = dcp(TWO_GROUPS, DcpDialect.TORCH);
    rename(dcp, renaming("model.emb.weight", "model._fsdp_wrapped_module._flat_param"));
    refuses(dcp, TWO_GROUPS, "_flat_param", "LOCAL_STATE_DICT");
    assertThat(DistributedCheckpoint.require(new LocalSourceStore(), dcp.toString()).contents())
        .asString()
        .contains("LOCAL_STATE_DICT")
        .doesNotContain("loads it as it is");
  }

  @Test
  void nothingWhereTheInputShouldBe() {
    refuses(scratch.resolve("nowhere"), TWO_GROUPS, "nowhere: there is no such directory");
  }

  @Test
  void stepsThatDoNotAgree() throws IOException {
    Path dcp = dcp(TWO_GROUPS, DcpDialect.TORCH);
    // The scale of the model is 1.5.
    rename(
        dcp,
        key ->
            key.equals("model.scale")
                ? "optim.state.head.weight.step"
                : key.equals("optim.state.head.weight.step") ? "model.scale" : key);
    refuses(dcp, TWO_GROUPS, "'optim.state.head.weight.step' is 1.5");
  }

  @Test
  void aStepThatIsNotThere() throws IOException {
    Path dcp = dcp(TWO_GROUPS, DcpDialect.TORCH);
    rename(dcp, renaming("optim.state.head.weight.step", "elsewhere"));
    refuses(dcp, TWO_GROUPS, "'optim.state.head.weight.step' is not there");
  }

  @Test
  void aHyperParameterThatIsNotThere() throws IOException {
    Path dcp = dcp(TWO_GROUPS, DcpDialect.TORCH);
    rename(dcp, renaming("optim.param_groups.0.betas", "elsewhere"));
    refuses(dcp, TWO_GROUPS, "has no 'betas' of the param group with emb.weight");
  }

  /** NAdam's states are those of Adam, but for a number that Adam has not. */
  @Test
  void hyperParametersOfAnotherOptimizer() throws IOException {
    Path dcp = dcp(TWO_GROUPS, DcpDialect.TORCH);
    rename(dcp, renaming("optim.param_groups.0.initial_lr", "optim.param_groups.0.momentum_decay"));
    refuses(
        dcp,
        TWO_GROUPS,
        "the param group with emb.weight has 'momentum_decay', the number 0.01, and the template's"
            + " optimizer has no such option");
  }

  @Test
  void aScalarThatTheTemplateHasNot() throws IOException {
    Path dcp = dcp(TWO_GROUPS, DcpDialect.TORCH);
    rename(dcp, renaming("global_steps", "optim.state.head.weight.mu_product"));
    refuses(dcp, TWO_GROUPS, "the optimizer keeps [mu_product] of head.weight");
  }

  @Test
  void aSchedulerThatIsNotThere() throws IOException {
    GoldenCase golden = GoldenCase.of("z2-fp16-dynamic");
    Path dcp = dcp(golden, DcpDialect.TORCH);
    rename(dcp, key -> key.startsWith("lr_scheduler.") ? "other." + key : key);
    refuses(dcp, golden, "has no object 'lr_scheduler.", "the template's run has a scheduler");
  }

  @Test
  void statesOfAnotherType() throws IOException {
    Path dcp = dcp(TWO_GROUPS, DcpDialect.TORCH);
    Path file = dcp.resolve(".metadata");
    PyObject root = PickleReader.read(Files.readAllBytes(file), "test").root();
    PyDict items = (PyDict) fields(root).get("state_dict_metadata");
    PyInstance tensor = (PyInstance) items.get("optim.state.head.weight.exp_avg");
    PyInstance properties = (PyInstance) fields(tensor).get("properties");
    List<PyObject> state = new ArrayList<>(((PyTuple) properties.state()).items());
    state.set(0, new PyGlobal("torch", "uint8"));
    fields(tensor)
        .replace("properties", PyInstance.newObject(properties.callable(), new PyTuple(state)));
    Files.write(file, PickleWriter.write(root, 2));
    refuses(
        dcp,
        TWO_GROUPS,
        "'optim.state.head.weight.exp_avg' is uint8",
        "Only states of the same type");
  }

  @Test
  void weightsThatAreNotTied() {
    refuses(
        dcp(GoldenCase.of("z2-bf16-clip"), DcpDialect.TORCH),
        GoldenCase.of("z2-freeze-tie"),
        "template");
  }
}
