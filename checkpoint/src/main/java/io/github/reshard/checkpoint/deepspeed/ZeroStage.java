package io.github.reshard.checkpoint.deepspeed;

import io.github.reshard.checkpoint.pickle.PyGlobal;
import io.github.reshard.checkpoint.pickle.PyInstance;
import io.github.reshard.checkpoint.pickle.PyInt;
import io.github.reshard.checkpoint.pickle.PyObject;
import io.github.reshard.checkpoint.pickle.PyStr;
import io.github.reshard.checkpoint.pickle.PyTuple;
import io.github.reshard.checkpoint.torch.PickledValue;
import java.util.List;
import java.util.Optional;

/**
 * A stage of ZeRO as files have it: a member of DeepSpeed's {@code ZeroStageEnum} (0.19.6,
 * runtime/zero/config.py), pickled as {@code ZeroStageEnum(2)} or, by CPython 3.11.2, as {@code
 * getattr(ZeroStageEnum, 'gradients')} (enum.py, {@code Enum.__reduce_ex__}); or the bare number.
 */
public final class ZeroStage {
  /** The stage of a target that stays at the source's. */
  public static final int AS_SAVED = 0;

  private static final PyGlobal ENUM =
      new PyGlobal("deepspeed.runtime.zero.config", "ZeroStageEnum");

  /** The members by their number. */
  private static final List<String> NAMES =
      List.of("disabled", "optimizer_states", "gradients", "weights");

  private ZeroStage() {}

  /**
   * The number of a stage.
   *
   * @throws io.github.reshard.checkpoint.RefusedException if {@code value} is none
   */
  public static int of(PickledValue value) {
    Optional<PyInt> number = numberOf(value.node());
    if (number.isPresent()) {
      return new PickledValue(value.file(), value.path(), number.get()).asInt();
    }
    if (isGetattr(value.node())) {
      throw value.refused("expected getattr(ZeroStageEnum, name), name being one of " + NAMES);
    }
    return value.asInt();
  }

  /** The number of a member of the enum in either of its forms; of anything else none. */
  static Optional<PyInt> numberOf(PyObject node) {
    if (!(node instanceof PyInstance made)
        || made.state() != null
        || !(made.args() instanceof PyTuple args)) {
      return Optional.empty();
    }
    if (args.size() == 1 && args.get(0) instanceof PyInt number) {
      return Optional.of(number);
    }
    boolean ofEnum =
        isGetattr(node)
            && args.size() == 2
            && args.get(0) instanceof PyGlobal of
            && of.is(ENUM.module(), ENUM.name());
    int stage = ofEnum && args.get(1) instanceof PyStr name ? NAMES.indexOf(name.value()) : -1;
    return stage < 0 ? Optional.empty() : Optional.of(PyInt.of(stage));
  }

  /**
   * Protocol 2 has Python 2's name of the module, later ones the own (CPython, pickle.py, {@code
   * fix_imports}).
   */
  private static boolean isGetattr(PyObject node) {
    return node instanceof PyInstance made
        && (made.isOf("__builtin__", "getattr") || made.isOf("builtins", "getattr"));
  }

  /**
   * {@code stage} as the run that saved {@code like} would write it.
   *
   * @param like a stage of the same run, if its files have one
   */
  public static PyObject written(int stage, Optional<PyObject> like) {
    if (like.isPresent() && like.get() instanceof PyInt) {
      return PyInt.of(stage);
    }
    if (like.isPresent() && isGetattr(like.get())) {
      return PyInstance.reduce(
          ((PyInstance) like.get()).callable(), PyTuple.of(ENUM, new PyStr(NAMES.get(stage))));
    }
    return PyInstance.reduce(ENUM, PyTuple.of(PyInt.of(stage)));
  }
}
