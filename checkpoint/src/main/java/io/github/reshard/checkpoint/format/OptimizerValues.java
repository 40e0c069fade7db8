package io.github.reshard.checkpoint.format;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.pickle.PyObject;
import io.github.reshard.checkpoint.state.ParameterSet;
import io.github.reshard.checkpoint.torch.DType;
import io.github.reshard.checkpoint.torch.PickledValue;
import io.github.reshard.checkpoint.torch.TorchFile;
import java.io.IOException;
import java.io.Serializable;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.function.Function;

/**
 * What an optimizer file says beside its partitions, in the one form that all stages have in
 * common. The nodes are those of the file; who edits them edits {@code root}.
 *
 * @param root the pickled dict
 * @param stateDict the ZeRO optimizer's own {@code state_dict()}
 * @param inner the inner optimizer's {@code state_dict()}: {@code state} and {@code param_groups}
 * @param groups for each param group what one of its parameters has
 */
public record OptimizerValues(
    PickledValue root, PickledValue stateDict, PickledValue inner, List<Group> groups) {
  /**
   * One param group.
   *
   * @param master the tensor of the master weights, without attributes
   * @param state the group's state, in which tensors of {@code cut} are to be replaced
   * @param cut the names of the states of which each rank has a partition, without the masters
   */
  public record Group(PyObject master, Optional<PyObject> state, List<String> cut) {}

  /**
   * What a file says of a param group that all of its parameters have in common.
   *
   * @param options its hyper-parameters, if they are saved
   * @param states the optimizer's state of it: one dict, or one of each part that is stepped by
   *     itself, or none
   */
  public record Shared(Optional<PickledValue> options, List<PickledValue> states) {}

  /** How the files of one format are read; recipes carry it to the workers. */
  public interface Reading extends Serializable {
    /**
     * What a file says of each param group. The nodes are those of {@code root}.
     *
     * @param root the pickled dict
     */
    List<Shared> shared(PickledValue root);

    /**
     * Reads a file anew.
     *
     * @param states for each param group the partitioned states
     */
    OptimizerValues read(TorchFile file, List<Map<String, DType>> states);

    /**
     * Checks that files of other partitions can be made of it: that what is not partitioned is one
     * value for a param group, and all of it is there.
     *
     * @param refusal of the writer, of a problem that is said without its end
     * @throws RefusedException if not
     */
    void requireShared(
        TrainingState state,
        ModelPart part,
        Target target,
        Function<String, RefusedException> refusal)
        throws IOException;

    /**
     * Checks that model-parallel ranks say the same of all that they do not partition, where only
     * what one of them says goes on.
     *
     * @param ranks as they were read
     * @param sets the trained parameters of each
     * @throws RefusedException if they do not
     */
    void requireAlike(PlanDraft draft, List<ModelPart> ranks, List<ParameterSet> sets)
        throws IOException;
  }

  /** The param groups' hyper-parameters. */
  public List<PickledValue> paramGroups() {
    return inner.get("param_groups").items();
  }
}
