package io.github.reshard.checkpoint.dcp;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.dcp.DcpMetadata.Chunk;
import io.github.reshard.checkpoint.deepspeed.CheckpointFiles;
import io.github.reshard.checkpoint.deepspeed.SavedModule;
import io.github.reshard.checkpoint.deepspeed.SavedOptimizer;
import io.github.reshard.checkpoint.deepspeed.Scalar;
import io.github.reshard.checkpoint.format.TrainingState;
import io.github.reshard.checkpoint.pickle.PickleWriter;
import io.github.reshard.checkpoint.pickle.PyNone;
import io.github.reshard.checkpoint.pickle.PyObject;
import io.github.reshard.checkpoint.plan.ReshardPlan;
import io.github.reshard.checkpoint.plan.SourceFile;
import io.github.reshard.checkpoint.state.Address;
import io.github.reshard.checkpoint.state.Box;
import io.github.reshard.checkpoint.state.DegreeChange;
import io.github.reshard.checkpoint.state.PartitionedModel;
import io.github.reshard.checkpoint.state.PartitionedModel.ModuleWeight;
import io.github.reshard.checkpoint.state.PartitionedModel.Partition;
import io.github.reshard.checkpoint.storage.RangedFile;
import io.github.reshard.checkpoint.storage.SourceStore;
import io.github.reshard.checkpoint.template.Comparison;
import io.github.reshard.checkpoint.torch.PickledValue;
import io.github.reshard.checkpoint.torch.StorageKeys;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.HashMap;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;

/** A distributed checkpoint beside a checkpoint of DeepSpeed of the same training state. */
final class DcpComparison {
  private static final long MOST_BYTES = 64L << 20;
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
    DcpWriter.requireOneModel(files, zero.checkpoint());
    return new Reading(dcp, state, zero, files).read();
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
      List<SavedModule.SavedTensor> beside = new ArrayList<>();
      for (SavedModule module : SavedModule.of(zero, store, files)) {
        module.tensors().stream().filter(t -> t.address() != null).forEach(beside::add);
      }
      Set<String> needed = new LinkedHashSet<>();
      for (PartitionedModel model : zero.models()) {
        for (int p = 0; p < model.parameters().size(); p++) {
          String name = model.parameters().get(p).name();
          for (String state : model.statesOf(p).keySet()) {
            needed.add(keys.weightOrState(name, state));
          }
        }
      }
      beside.forEach(tensor -> needed.add(keys.model(tensor.name())));
      needed.forEach(keys::requireTensor);
      DcpSources sources = DcpSources.read(store, dcp, needed, 0);
      for (SavedModule.SavedTensor tensor : beside) {
        compare(tensor, sources);
      }
      compareGroups();
      compareValues();
      return new Comparison(plan(sources), differences, notes);
    }

    private ReshardPlan plan(DcpSources sources) {
      List<PartitionedModel> models = new ArrayList<>();
      for (PartitionedModel model : zero.models()) {
        Map<Partition, Address> partitions = new HashMap<>();
        DcpLayout source = sources.layout(model, keys, partitions);
        if (!source.isOfRuns()) {
          throw new RefusedException(
              dcp.path(),
              "some of its parameters are cut along another dimension than the first, which is not"
                  + " compared. Take it to DeepSpeed's files with --template and compare these.");
        }
        models.add(
            new PartitionedModel(
                model.mpRank(),
                model.expertRank(),
                source,
                model.target(),
                model.states(),
                partitions,
                Map.of(),
                new ArrayList<ModuleWeight>(Collections.nCopies(model.parameters().size(), null)),
                model.whole()));
      }
      return new ReshardPlan(
          dcp.path(),
          zero.tag(),
          models.stream().mapToInt(m -> m.source().worldSize()).max().orElse(1),
          zero.targetWorldSize(),
          DegreeChange.NONE,
          sources.files(),
          List.of(),
          models,
          List.of(),
          List.of(),
          List.of(),
          List.of(),
          zero.partBytes());
    }

    private void compare(SavedModule.SavedTensor tensor, DcpSources sources) throws IOException {
      String key = keys.model(tensor.name());
      DcpMetadata.Tensor other = keys.requireTensor(key);
      String what = "module: " + tensor.name();
      if (!other.shape().equals(tensor.shape())) {
        differences.add(
            "%s is of shape %s in one and %s in the other"
                .formatted(what, tensor.shape(), other.shape()));
        return;
      }
      long bytes = tensor.elements() * tensor.dtype().bytes();
      if (other.dtype() != tensor.dtype() || bytes > MOST_BYTES) {
        notes.add(
            what
                + (bytes > MOST_BYTES
                    ? " is larger than 64 MiB; not compared"
                    : " is %s in one and %s in the other; not compared"
                        .formatted(tensor.dtype().torchName(), other.dtype().torchName())));
        return;
      }
      if (bytes == 0) {
        return;
      }
      byte[] one = read(zero.sources(), tensor.address(), (int) bytes);
      byte[] two = new byte[(int) bytes];
      for (int c = 0; c < other.chunks().size(); c++) {
        Chunk chunk = other.chunks().get(c);
        long start =
            DcpLayout.start(other.shape(), new Box(chunk.offsets(), chunk.sizes())).orElse(-1);
        if (start < 0) {
          notes.add(what + " is cut along another dimension than the first; not compared");
          return;
        }
        int width = tensor.dtype().bytes();
        int length = Math.toIntExact(chunk.elements() * width);
        byte[] of = read(sources.files(), sources.address(key, c), length);
        System.arraycopy(of, 0, two, Math.toIntExact(start * width), length);
      }
      if (!Arrays.equals(one, two)) {
        differences.add(what + " is another one");
      }
    }

    private byte[] read(List<SourceFile> sources, Address at, int length) throws IOException {
      ByteBuffer bytes = ByteBuffer.allocate(length);
      try (RangedFile file = store.open(sources.get(at.file()).stat())) {
        file.readFully(at.offset(), bytes);
      }
      return bytes.array();
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

    private void compareValues() {
      List<String> only = new ArrayList<>();
      for (PickledValue.Entry entry :
          state.parts().get(0).model().orElseThrow().root().children()) {
        if (!DcpWriter.isDeepSpeeds(entry.key())) {
          compare(entry.key(), entry.value(), only);
        }
      }
      if (!only.isEmpty()) {
        notes.add("only one of the two has %s; not compared".formatted(String.join(", ", only)));
      }
    }

    private void compare(String key, PickledValue value, List<String> only) {
      if (value.isDict() && value.entries().size() > 0) {
        for (PickledValue.Entry entry : value.children()) {
          compare(key + "." + entry.key(), entry.value(), only);
        }
      } else if (!objects.containsKey(key)) {
        if (value.node() != PyNone.NONE) {
          only.add(key);
        }
      } else if (StorageKeys.references(value.node()).isEmpty()) {
        compare(key, value.node(), objects.get(key));
      } else {
        only.add(key);
      }
    }
  }
}
