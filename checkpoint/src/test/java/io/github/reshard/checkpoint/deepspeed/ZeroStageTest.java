package io.github.reshard.checkpoint.deepspeed;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.pickle.PyGlobal;
import io.github.reshard.checkpoint.pickle.PyInstance;
import io.github.reshard.checkpoint.pickle.PyInt;
import io.github.reshard.checkpoint.pickle.PyObject;
import io.github.reshard.checkpoint.pickle.PyStr;
import io.github.reshard.checkpoint.pickle.PyTuple;
import io.github.reshard.checkpoint.torch.PickledValue;
import java.util.List;
import java.util.Optional;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

class ZeroStageTest {
  private static final PyGlobal ENUM =
      new PyGlobal("deepspeed.runtime.zero.config", "ZeroStageEnum");
  private static final List<String> NAMES =
      List.of("disabled", "optimizer_states", "gradients", "weights");

  private static PickledValue value(PyObject node) {
    return new PickledValue("shard.pt", "zero_stage", node);
  }

  private static PyObject byName(String module, PyObject of, String name) {
    return PyInstance.reduce(new PyGlobal(module, "getattr"), PyTuple.of(of, new PyStr(name)));
  }

  @ParameterizedTest
  @ValueSource(strings = {"__builtin__", "builtins"})
  void everyFormSaysTheStage(String module) {
    for (int stage = 0; stage <= 3; stage++) {
      PyObject byName = byName(module, ENUM, NAMES.get(stage));
      PyObject byNumber = PyInstance.reduce(ENUM, PyTuple.of(PyInt.of(stage)));

      assertThat(ZeroStage.of(value(byName))).isEqualTo(stage);
      assertThat(ZeroStage.of(value(byNumber))).isEqualTo(stage);
      assertThat(ZeroStage.of(value(PyInt.of(stage)))).isEqualTo(stage);
    }
  }

  @ParameterizedTest
  @ValueSource(strings = {"__builtin__", "builtins"})
  void anotherStageIsWrittenInTheFormOfTheSource(String module) {
    PyObject saved = byName(module, ENUM, "gradients");

    PyInstance made = (PyInstance) ZeroStage.written(3, Optional.of(saved));
    assertThat(made.isOf(module, "getattr")).isTrue();
    assertThat(ZeroStage.of(value(made))).isEqualTo(3);

    PyInstance usual = (PyInstance) ZeroStage.written(1, Optional.empty());
    assertThat(usual.isOf(ENUM.module(), ENUM.name())).isTrue();
    assertThat(ZeroStage.written(1, Optional.of(PyInt.of(2)))).isInstanceOf(PyInt.class);
  }

  @Test
  void anUnknownMemberIsRefused() {
    assertThatThrownBy(() -> ZeroStage.of(value(byName("builtins", ENUM, "everything"))))
        .isInstanceOf(RefusedException.class)
        .hasMessageContaining("shard.pt, zero_stage")
        .hasMessageContaining("gradients");
  }

  @Test
  void anAttributeOfSomethingElseIsRefused() {
    PyGlobal other = new PyGlobal("signal", "Signals");
    assertThatThrownBy(() -> ZeroStage.of(value(byName("builtins", other, "weights"))))
        .isInstanceOf(RefusedException.class)
        .hasMessageContaining("ZeroStageEnum");
  }
}
