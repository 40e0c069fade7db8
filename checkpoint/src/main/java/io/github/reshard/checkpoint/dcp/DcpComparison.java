package io.github.reshard.checkpoint.dcp;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.deepspeed.CheckpointFiles;
import io.github.reshard.checkpoint.deepspeed.SavedModule;
import io.github.reshard.checkpoint.deepspeed.SavedOptimizer;
import io.github.reshard.checkpoint.deepspeed.Scalar;
import io.github.reshard.checkpoint.format.Addresses;
import io.github.reshard.checkpoint.format.PlanDraft;
import io.github.reshard.checkpoint.format.ReadFile;
import io.github.reshard.checkpoint.format.Target;
import io.github.reshard.checkpoint.format.TrainingState;
import io.github.reshard.checkpoint.pickle.PickleWriter;
import io.github.reshard.checkpoint.pickle.PyNone;
import io.github.reshard.checkpoint.pickle.PyObject;
import io.github.reshard.checkpoint.plan.ReshardPlan;
import io.github.reshard.checkpoint.state.Address;
import io.github.reshard.checkpoint.state.Parameter;
import io.github.reshard.checkpoint.state.PartitionedModel;
import io.github.reshard.checkpoint.state.PartitionedModel.ModuleWeight;
import io.github.reshard.checkpoint.state.PartitionedModel.Partition;
import io.github.reshard.checkpoint.storage.SourceStore;
import io.github.reshard.checkpoint.template.Comparison;
import io.github.reshard.checkpoint.torch.PickledValue;
import io.github.reshard.checkpoint.torch.TensorNode;
import java.io.IOException;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.HashMap;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Set;

/** A distributed checkpoint beside a checkpoint of DeepSpeed of the same training state. */
final class DcpComparison {
  private static final int PROTOCOL = 2;
  private static final String STEP = "step";

  private DcpComparison() {}

  /**
   * Looks at both.
   *
   * @param zero a plan of the checkpoint of DeepSpeed
   * @param files of that
   * @throws RefusedException if they are of different models or optimizers, or one is not sound
   */
  static Comparison of(
      DcpCheckpoint dcp, TrainingState state, ReshardPlan zero, CheckpointFiles files)
      throws IOException {
    DcpWriter.requireNames(files, zero.checkpoint());
    TrainingState one = JoinedRanks.of(state, "Compare what is made of each with --template.");
    ReshardPlan joined =
        state.parts().size() == 1
            ? zero
            : PlanDraft.ofNothing(one, new Target(zero.targetWorldSize(), zero.partBytes()));
    return new Reading(dcp, one, joined, files).read();
  }

  private static final class Reading {
    private final TrainingState state;
    private final SourceStore store;
    private final DcpCheckpoint dcp;
    private final ReshardPlan zero;
    private final CheckpointFiles files;
    private final DcpKeys keys;
    private final Map<String, PyObject> objects;
    private final List<String> differences = new ArrayList<>();
    private final List<String> notes = new ArrayList<>();

    Reading(DcpCheckpoint dcp, TrainingState state, ReshardPlan zero, CheckpointFiles files)
        throws IOException {
      this.state = state;
      this.store = state.store();
      this.dcp = dcp;
      this.zero = zero;
      this.files = files;
      this.keys = DcpKeys.of(dcp, zero);
      this.objects = dcp.values(store, keys.valueKeys());
    }

    Comparison read() throws IOException {
      List<SavedModule.SavedTensor> beside =
          SavedModule.ofFirstRank(zero, store, files).tensors().stream()
              .filter(tensor -> tensor.address() != null)
              .toList();
      Set<String> needed = new LinkedHashSet<>();
      for (PartitionedModel model : zero.models()) {
        for (int p = 0; p < model.parameters().size(); p++) {
          Parameter parameter = model.parameters().get(p);
          for (String state : model.statesOf(p).keySet()) {
            String key = keys.weightOrState(parameter.name(), state);
            DcpTypes.requireShape(keys, key, parameter.shape());
            needed.add(key);
          }
        }
      }
      beside.forEach(tensor -> needed.add(keys.model(tensor.name())));
      List<ClientState.Leaf> leaves =
          ClientState.of(state.parts().get(0).model().orElseThrow().root());
      leaves.stream()
          .filter(leaf -> leaf.tensor().isPresent() && keys.tensor(leaf.key()).isPresent())
          .forEach(leaf -> needed.add(leaf.key()));
      needed.forEach(keys::requireTensor);
      DcpSources sources = DcpSources.read(store, dcp, needed, 0);
      List<PartitionedModel> ofDcp = new ArrayList<>();
      List<PartitionedModel> ofZero = new ArrayList<>(zero.models());
      for (PartitionedModel model : zero.models()) {
        ofDcp.add(inChunks(model, sources));
      }
      LooseTensors looseOfDcp = new LooseTensors();
      LooseTensors looseOfZero = new LooseTensors();
      for (SavedModule.SavedTensor tensor : beside) {
        if (isComparable(tensor)) {
          String key = keys.model(tensor.name());
          looseOfDcp.add(tensor.name(), keys.requireTensor(key), key, sources);
          looseOfZero.add(tensor.name(), tensor.dtype(), tensor.shape(), tensor.address());
        }
      }
      compareValues(leaves, sources, looseOfDcp, looseOfZero);
      looseOfDcp.chunks().ifPresent(ofDcp::add);
      looseOfZero.whole().ifPresent(ofZero::add);
      compareGroups();
      return new Comparison(
          LooseTensors.plan(dcp.path(), sources.files(), ofDcp, zero.partBytes()),
          zero.with(ofZero),
          differences,
          notes);
    }

    private PartitionedModel inChunks(PartitionedModel model, DcpSources sources) {
      Map<Partition, Address> partitions = new HashMap<>();
      return new PartitionedModel(
          model.mpRank(),
          model.expertRank(),
          sources.layout(model, keys, partitions),
          model.target(),
          DcpTypes.of(model, keys).states(),
          partitions,
          Map.of(),
          new ArrayList<ModuleWeight>(Collections.nCopies(model.parameters().size(), null)),
          model.whole());
    }

    /** Whether its elements can be held against each other; if not, that is said. */
    private boolean isComparable(SavedModule.SavedTensor tensor) {
      DcpMetadata.Tensor other = keys.requireTensor(keys.model(tensor.name()));
      String what = "module: " + tensor.name();
      if (!other.shape().equals(tensor.shape())) {
        differences.add(
            "%s is of shape %s in one and %s in the other"
                .formatted(what, tensor.shape(), other.shape()));
        return false;
      }
      if (other.dtype() != tensor.dtype()) {
        notes.add(
            "%s is %s in one and %s in the other; not compared"
                .formatted(what, tensor.dtype().torchName(), other.dtype().torchName()));
        return false;
      }
      return tensor.elements() > 0;
    }

    private void compareGroups() throws IOException {
      List<SavedOptimizer.Group> groups = SavedOptimizer.of(state).groups();
      List<TemplateGroups.Found> found =
          new TemplateGroups(keys, objects, dcp).find(zero, groups, store);
      for (int g = 0; g < groups.size(); g++) {
        String where = "optimizer: param_groups[" + g + "].";
        SavedOptimizer.Group group = groups.get(g);
        for (Map.Entry<String, PyObject> option : found.get(g).options().entrySet()) {
          compare(where + option.getKey(), group.options().get(option.getKey()), option.getValue());
        }
        found
            .get(g)
            .scalars()
            .forEach(
                (name, scalar) -> {
                  Scalar other = group.scalars().get(name);
                  if (other != null && !name.equals(STEP) && !other.equals(scalar.value())) {
                    differences.add(
                        "%s%s is %s in one and %s in the other"
                            .formatted(where, name, other, scalar.value()));
                  }
                });
        if (group.step().isPresent()
            && found.get(g).step().isPresent()
            && !group.step().equals(found.get(g).step())) {
          differences.add(
              "%sstep is %s in one and %s in the other"
                  .formatted(where, group.step().getAsDouble(), found.get(g).step().getAsDouble()));
        }
      }
    }

    private void compare(String what, PyObject one, PyObject two) {
      if (!Arrays.equals(PickleWriter.write(one, PROTOCOL), PickleWriter.write(two, PROTOCOL))) {
        differences.add(
            "%s is %s in one and %s in the other"
                .formatted(
                    what,
                    new PickledValue("", "", one).describe(),
                    new PickledValue("", "", two).describe()));
      }
    }

    /** Compares counters, scheduler and client state; the tensors among them are added. */
    private void compareValues(
        List<ClientState.Leaf> leaves,
        DcpSources sources,
        LooseTensors ofDcp,
        LooseTensors ofZero) {
      List<String> only = new ArrayList<>();
      for (ClientState.Leaf leaf : leaves) {
        String key = leaf.key();
        Optional<DcpMetadata.Tensor> tensor = keys.tensor(key);
        if (leaf.tensor().isPresent() && tensor.isPresent()) {
          compare(leaf, leaf.tensor().get(), tensor.get(), sources, ofDcp, ofZero);
        } else if (objects.containsKey(key) && !leaf.holdsTensors()) {
          compare(key, leaf.value().node(), objects.get(key));
        } else if (leaf.value().node() != PyNone.NONE) {
          only.add(key);
        }
      }
      if (!only.isEmpty()) {
        notes.add("only one of the two has %s; not compared".formatted(String.join(", ", only)));
      }
    }

    private void compare(
        ClientState.Leaf leaf,
        TensorNode one,
        DcpMetadata.Tensor other,
        DcpSources sources,
        LooseTensors ofDcp,
        LooseTensors ofZero) {
      List<Long> shape = Arrays.stream(one.shape()).boxed().toList();
      if (!shape.equals(other.shape()) || one.dtype() != other.dtype()) {
        differences.add(
            "%s is %s of shape %s in one and %s of shape %s in the other"
                .formatted(
                    leaf.key(),
                    one.dtype().torchName(),
                    shape,
                    other.dtype().torchName(),
                    other.shape()));
      } else if (one.numel() > 0 && one.isContiguous()) {
        String name = "client state, " + leaf.key();
        ReadFile file = state.parts().get(0).model().orElseThrow();
        ofDcp.add(name, other, leaf.key(), sources);
        ofZero.add(
            name,
            one.dtype(),
            shape,
            Addresses.of(
                zero.sources().get(file.source()),
                file.source(),
                file.file(),
                leaf.value().where(),
                one));
      }
    }
  }
}
