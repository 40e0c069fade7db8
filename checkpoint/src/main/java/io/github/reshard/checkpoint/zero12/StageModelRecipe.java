package io.github.reshard.checkpoint.zero12;

import io.github.reshard.checkpoint.deepspeed.ModelStates;
import io.github.reshard.checkpoint.format.Rewritten;
import io.github.reshard.checkpoint.format.StorageList;
import io.github.reshard.checkpoint.format.TorchRecipe;
import io.github.reshard.checkpoint.pickle.DictBuilder;
import io.github.reshard.checkpoint.pickle.PyEntries;
import io.github.reshard.checkpoint.pickle.PyInstance;
import io.github.reshard.checkpoint.pickle.PyInt;
import io.github.reshard.checkpoint.pickle.PyList;
import io.github.reshard.checkpoint.pickle.PyObject;
import io.github.reshard.checkpoint.pickle.PyStr;
import io.github.reshard.checkpoint.pickle.PyTuple;
import io.github.reshard.checkpoint.state.Parameter;
import io.github.reshard.checkpoint.state.PartitionedModel;
import io.github.reshard.checkpoint.torch.PickledValue;
import io.github.reshard.checkpoint.torch.TorchFile;
import java.util.List;
import java.util.Map;

/**
 * The model file of a stage of a pipeline: what it says of its parameters, whose weights lie in the
 * layers' own files.
 *
 * @param template the source's file that it is made of
 * @param groups for each param group of {@code param_shapes}, the partitioned group
 * @param buffers the names of the stage's buffers
 * @param stages of the target
 * @param mpRanks model-parallel ranks of the target
 * @param keepsTies whether the file is of the rank that records which names share a parameter
 */
record StageModelRecipe(
    int template,
    List<GroupRef> groups,
    List<String> buffers,
    int stages,
    int mpRanks,
    boolean keepsTies)
    implements TorchRecipe {
  StageModelRecipe {
    groups = List.copyOf(groups);
    buffers = List.copyOf(buffers);
  }

  @Override
  public Rewritten rewrite(TorchFile template, List<PartitionedModel> models, int targetWorldSize) {
    PyObject root = template.parse().root();
    ModelStates states = new ModelStates(PickledValue.root(template.path(), root));
    PyEntries entries = states.root().entries();
    entries.replace(ModelStates.DP_WORLD_SIZE, PyInt.of(targetWorldSize));
    entries.replace("mp_world_size", PyInt.of(mpRanks));
    states
        .root()
        .findPresent("checkpoint_parallel_dimensions")
        .filter(PickledValue::isDict)
        .ifPresent(degrees -> degrees.entries().replace("pp_degree", PyInt.of(stages)));
    states
        .root()
        .findPresent("buffer_names")
        .ifPresent(
            names -> {
              List<PyObject> list = ((PyList) names.node()).items();
              list.clear();
              buffers.forEach(name -> list.add(new PyStr(name)));
            });
    if (!keepsTies) {
      states
          .root()
          .findPresent(ModelStates.SHARED_PARAMS)
          .ifPresent(shared -> shared.entries().list().clear());
    }
    PickledValue shapes = states.root().get(ModelStates.PARAM_SHAPES);
    PyObject like = shapes.items().get(0).children().get(0).value().node();
    List<PyObject> list = ((PyList) shapes.node()).items();
    list.clear();
    for (GroupRef ref : groups) {
      FlatLayout layout = ref.target(models);
      PyInstance group = DictBuilder.orderedDict();
      for (int p : layout.flatOrder(ref.group())) {
        Parameter parameter = layout.parameters().get(p);
        group.dictItems().add(new PyStr(parameter.name()), shape(like, parameter.shape()));
      }
      list.add(group);
    }
    return StorageList.of(template, root, Map.of());
  }

  /** A shape as the template's file has them: a {@code torch.Size}, or a tuple. */
  private static PyObject shape(PyObject like, List<Long> shape) {
    PyTuple sizes = new PyTuple(shape.stream().<PyObject>map(PyInt::of).toList());
    return like instanceof PyInstance size
        ? PyInstance.reduce(size.callable(), PyTuple.of(sizes))
        : sizes;
  }

  @Override
  public boolean isOfSameKind() {
    return false;
  }
}
