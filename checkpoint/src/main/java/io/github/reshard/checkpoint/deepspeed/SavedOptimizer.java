package io.github.reshard.checkpoint.deepspeed;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.format.ModelPart;
import io.github.reshard.checkpoint.format.OptimizerValues;
import io.github.reshard.checkpoint.format.ReadFile;
import io.github.reshard.checkpoint.format.TrainingState;
import io.github.reshard.checkpoint.pickle.PyFloat;
import io.github.reshard.checkpoint.pickle.PyInt;
import io.github.reshard.checkpoint.pickle.PyNone;
import io.github.reshard.checkpoint.pickle.PyObject;
import io.github.reshard.checkpoint.storage.FileStat;
import io.github.reshard.checkpoint.storage.SourceStore;
import io.github.reshard.checkpoint.torch.DType;
import io.github.reshard.checkpoint.torch.ElementText;
import io.github.reshard.checkpoint.torch.PickledValue;
import io.github.reshard.checkpoint.torch.StorageKeys;
import io.github.reshard.checkpoint.torch.TensorNode;
import io.github.reshard.checkpoint.torch.TorchFile;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.OptionalDouble;
import java.util.zip.CRC32;

/**
 * What the optimizer files of the first model-parallel rank say beside the partitions, which is the
 * same in those of all its ranks.
 *
 * @param groups the param groups, by their index
 */
public record SavedOptimizer(List<Group> groups) {
  private static final String STEP = "step";
  private static final String PARAMS = "params";
  private static final String ELASTIC_STEP = "base_optimizer_state_step";

  public SavedOptimizer {
    groups = List.copyOf(groups);
  }

  /**
   * A param group.
   *
   * @param where it is, for messages
   * @param options its hyper-parameters; with elastic_checkpoint none
   * @param step how many steps its optimizer has made, if it counts them
   * @param isStepOption whether that stands among the hyper-parameters, as FusedAdam's
   * @param scalars what the group's state says once for all of its elements, its step among it if
   *     it stands there
   */
  public record Group(
      String where,
      Map<String, PyObject> options,
      OptionalDouble step,
      boolean isStepOption,
      Map<String, Scalar> scalars) {}

  /**
   * Reads them.
   *
   * @throws RefusedException if they are not saved, or hold tensors
   */
  public static SavedOptimizer of(TrainingState state) throws IOException {
    List<Group> groups = new ArrayList<>();
    ModelPart part = state.parts().get(0);
    // A rank whose partition of a group is all padding may have no state of it.
    for (ReadFile file : part.optimizers()) {
      PickledValue root = file.root();
      List<Group> found =
          new Reading(state.store(), state.sources().get(file.source()).stat(), file.file(), root)
              .groups(part.reading().shared(root));
      for (int g = 0; g < found.size(); g++) {
        if (g == groups.size()) {
          groups.add(found.get(g));
        } else if (groups.get(g).scalars().isEmpty() && !found.get(g).scalars().isEmpty()) {
          groups.set(g, found.get(g));
        }
      }
      if (groups.stream().noneMatch(group -> group.scalars().isEmpty())) {
        break;
      }
    }
    return new SavedOptimizer(groups);
  }

  /** One file. */
  private record Reading(SourceStore store, FileStat stat, TorchFile file, PickledValue root) {
    List<Group> groups(List<OptimizerValues.Shared> shared) throws IOException {
      List<Group> groups = new ArrayList<>();
      for (int g = 0; g < shared.size(); g++) {
        Optional<PickledValue> options = shared.get(g).options();
        List<PickledValue> states = shared.get(g).states();
        groups.add(options.isPresent() ? group(options.get(), states) : elastic(g, states));
      }
      return groups;
    }

    /**
     * elastic_checkpoint keeps no hyper-parameters: the run that loads has its own. Of steps that
     * stand among them it keeps those of the first group (DeepSpeed 0.19.6,
     * runtime/zero/stage_1_and_2.py, {@code state_dict}).
     */
    private Group elastic(int group, List<PickledValue> states) throws IOException {
      Optional<PickledValue> step = new OptimizerFile(root).stateDict().findPresent(ELASTIC_STEP);
      return group(
          "param group " + group + " of " + file.path(),
          Map.of(),
          step.isPresent() ? number(step.get()) : OptionalDouble.empty(),
          states);
    }

    private Group group(PickledValue saved, List<PickledValue> states) throws IOException {
      Map<String, PyObject> options = new LinkedHashMap<>();
      OptionalDouble step = OptionalDouble.empty();
      for (PickledValue.Entry option : saved.children()) {
        if (option.key().equals(STEP)) {
          step = number(option.value());
        } else if (!option.key().equals(PARAMS)) {
          if (!StorageKeys.references(option.value().node()).isEmpty()) {
            throw option
                .value()
                .refused("is a tensor. Only hyper-parameters that are numbers are taken along.");
          }
          options.put(option.key(), option.value().node());
        }
      }
      return group(saved.where(), options, step, states);
    }

    private Group group(
        String where,
        Map<String, PyObject> options,
        OptionalDouble ofGroup,
        List<PickledValue> states)
        throws IOException {
      Map<String, Scalar> scalars = new LinkedHashMap<>();
      OptionalDouble step = ofGroup;
      for (PickledValue state : states) {
        for (PickledValue.Entry entry : state.children()) {
          Optional<Scalar> scalar = scalar(entry.value());
          if (scalar.isPresent()) {
            Scalar other = scalars.putIfAbsent(entry.key(), scalar.get());
            if (other != null && !other.equals(scalar.get())) {
              throw entry
                  .value()
                  .refused(
                      "is %s, in another sub-group of the same param group %s. Each parameter would need a number of its own."
                          .formatted(scalar.get(), other));
            }
          }
        }
        OptionalDouble counted =
            state.find(STEP).isPresent() ? number(state.get(STEP)) : OptionalDouble.empty();
        if (counted.isPresent() && step.isPresent() && !counted.equals(step)) {
          throw state.refused(
              "counts %s steps, another of the same param group %s. Each parameter would need a number of its own."
                  .formatted(counted.getAsDouble(), step.getAsDouble()));
        }
        step = counted.isPresent() ? counted : step;
      }
      return new Group(where, options, step, ofGroup.isPresent(), scalars);
    }

    /** The value if it is one for all elements: a number, or a tensor of one. */
    private Optional<Scalar> scalar(PickledValue value) throws IOException {
      Optional<TensorNode> tensor = value.asTensor();
      if (tensor.isPresent()) {
        return Replicated.isReplicated(tensor.get())
            ? Optional.of(new Scalar.OfTensor(tensor.get().dtype(), element(value)))
            : Optional.empty();
      }
      boolean isPlain =
          value.node() != PyNone.NONE
              && !value.isDict()
              && StorageKeys.references(value.node()).isEmpty();
      return isPlain ? Optional.of(Scalar.OfValue.of(value.node())) : Optional.empty();
    }

    private OptionalDouble number(PickledValue value) throws IOException {
      if (value.node() == PyNone.NONE) {
        return OptionalDouble.empty();
      }
      if (value.node() instanceof PyInt whole) {
        return OptionalDouble.of(whole.value().doubleValue());
      }
      if (value.node() instanceof PyFloat number) {
        return OptionalDouble.of(number.value());
      }
      DType dtype = value.tensor().dtype();
      try {
        return OptionalDouble.of(
            Double.parseDouble(ElementText.of(dtype, ByteBuffer.wrap(element(value)), 0)));
      } catch (NumberFormatException e) {
        throw value.refused("expected a number, found a tensor of %s.".formatted(dtype));
      }
    }

    /** The bytes of a tensor of one element. */
    private byte[] element(PickledValue value) throws IOException {
      TensorNode tensor = value.tensor();
      tensor.requireInBounds(value.where());
      TorchFile.Entry entry = file.storage(tensor.storageKey()).orElseThrow();
      if (tensor.numel() != 1 || entry.bytes() > 64) {
        throw value.refused("expected one number, found a tensor of %d.".formatted(tensor.numel()));
      }
      ByteBuffer bytes = store.read(stat, entry.payloadOffset(), entry.bytes());
      CRC32 crc = new CRC32();
      crc.update(bytes.duplicate());
      if (file.hasCrcs() && (int) crc.getValue() != entry.crc32()) {
        throw new RefusedException(
            value.where(),
            "expected CRC %08x of entry %s, found %08x: the file is damaged; copy it again"
                .formatted(entry.crc32(), entry.name(), (int) crc.getValue()));
      }
      byte[] element = new byte[tensor.dtype().bytes()];
      bytes.get(Math.toIntExact(tensor.storageOffset() * element.length), element);
      return element;
    }
  }
}
