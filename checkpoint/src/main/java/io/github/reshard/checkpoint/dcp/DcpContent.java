package io.github.reshard.checkpoint.dcp;

import io.github.reshard.checkpoint.dcp.DcpMetadata.Step;
import io.github.reshard.checkpoint.deepspeed.SavedOptimizer;
import io.github.reshard.checkpoint.pickle.PyObject;
import io.github.reshard.checkpoint.state.Address;
import io.github.reshard.checkpoint.torch.DType;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * What a distributed checkpoint gets beside the parameters that are partitioned, whatever format it
 * comes from.
 *
 * @param groups the param groups, by their index
 * @param tensors buffers, and parameters that nothing trains, in full
 * @param tied further names of parameters, and which one each names
 * @param objects counters, a scheduler's state and what the user saved, by the way to them
 * @param clientTensors tensors that the user saved beside the module, by the way to them
 */
public record DcpContent(
    List<SavedOptimizer.Group> groups,
    List<Tensor> tensors,
    Map<String, String> tied,
    Map<List<Step>, PyObject> objects,
    Map<List<Step>, Tensor> clientTensors) {
  public DcpContent {
    groups = List.copyOf(groups);
    tensors = List.copyOf(tensors);
    tied = new LinkedHashMap<>(tied);
    objects = new LinkedHashMap<>(objects);
    clientTensors = new LinkedHashMap<>(clientTensors);
  }

  /**
   * A tensor that the source holds in one piece.
   *
   * @param name what it is called
   * @param dtype the type of an element
   * @param shape elements per dimension
   * @param address where it begins in the source
   */
  public record Tensor(String name, DType dtype, List<Long> shape, Address address) {}
}
