package io.github.reshard.checkpoint.dcp;

import io.github.reshard.checkpoint.dcp.DcpMetadata.Chunk;
import io.github.reshard.checkpoint.plan.ReshardPlan;
import io.github.reshard.checkpoint.plan.SourceFile;
import io.github.reshard.checkpoint.state.Address;
import io.github.reshard.checkpoint.state.Box;
import io.github.reshard.checkpoint.state.DegreeChange;
import io.github.reshard.checkpoint.state.ParamId;
import io.github.reshard.checkpoint.state.Parameter;
import io.github.reshard.checkpoint.state.PartitionedModel;
import io.github.reshard.checkpoint.state.PartitionedModel.Partition;
import io.github.reshard.checkpoint.state.States;
import io.github.reshard.checkpoint.state.WholeTensors;
import io.github.reshard.checkpoint.state.ZeroLayout;
import io.github.reshard.checkpoint.torch.DType;
import java.util.ArrayList;
import java.util.Collections;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;

/** Tensors that are compared by their names, whatever they are of. */
final class LooseTensors {
  private final List<Parameter> parameters = new ArrayList<>();
  private final List<Map<String, DType>> states = new ArrayList<>();
  private final List<List<Box>> boxes = new ArrayList<>();
  private final Map<Partition, Address> partitions = new HashMap<>();

  /** Adds one that lies in one piece. */
  void add(String name, DType dtype, List<Long> shape, Address address) {
    partitions.put(new Partition(0, parameters.size(), States.MODULE), address);
    boxes.add(List.of());
    add(name, dtype, shape);
  }

  /** Adds one of a distributed checkpoint. */
  void add(String name, DcpMetadata.Tensor tensor, String key, DcpSources sources) {
    List<Box> chunks = new ArrayList<>();
    for (int c = 0; c < tensor.chunks().size(); c++) {
      Chunk chunk = tensor.chunks().get(c);
      chunks.add(new Box(chunk.offsets(), chunk.sizes()));
      partitions.put(new Partition(c, parameters.size(), States.MODULE), sources.address(key, c));
    }
    boxes.add(chunks);
    add(name, tensor.dtype(), tensor.shape());
  }

  private void add(String name, DType dtype, List<Long> shape) {
    // Of a group of its own: it has a type of its own.
    parameters.add(new Parameter(name, shape, parameters.size()));
    states.add(Map.of(States.MODULE, dtype));
  }

  /** Those that lie in one piece each, if there are any. */
  Optional<PartitionedModel> whole() {
    return of(new WholeTensors(parameters));
  }

  /** Those of a distributed checkpoint, if there are any. */
  Optional<PartitionedModel> chunks() {
    return of(new DcpLayout(parameters, boxes));
  }

  private Optional<PartitionedModel> of(ZeroLayout layout) {
    return parameters.isEmpty()
        ? Optional.empty()
        : Optional.of(
            new PartitionedModel(
                0,
                ParamId.NO_EXPERT,
                layout,
                layout,
                states,
                partitions,
                Map.of(),
                new ArrayList<>(Collections.nCopies(parameters.size(), null))));
  }

  /** A plan of tensors that go nowhere. */
  static ReshardPlan plan(
      String checkpoint, List<SourceFile> sources, List<PartitionedModel> models, long partBytes) {
    return new ReshardPlan(
        checkpoint,
        "",
        models.stream().mapToInt(model -> model.source().worldSize()).max().orElse(1),
        ReshardPlan.ANY_WORLD_SIZE,
        DegreeChange.NONE,
        sources,
        List.of(),
        models,
        List.of(),
        List.of(),
        List.of(),
        List.of(),
        partBytes);
  }
}
