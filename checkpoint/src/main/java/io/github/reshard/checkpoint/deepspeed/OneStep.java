package io.github.reshard.checkpoint.deepspeed;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.format.SourceReading;
import io.github.reshard.checkpoint.pickle.PyFloat;
import io.github.reshard.checkpoint.pickle.PyInt;
import io.github.reshard.checkpoint.plan.Evidence;
import io.github.reshard.checkpoint.torch.ElementText;
import io.github.reshard.checkpoint.torch.PickledValue;
import io.github.reshard.checkpoint.torch.TensorNode;
import io.github.reshard.checkpoint.torch.TorchFile;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.TreeSet;

/**
 * Whether the files of different model-parallel ranks, and the optimizer and the model, are of one
 * step. That the data-parallel ranks agree is what {@link ReplicaComparison} and {@code
 * ModelFileComparison} see to.
 *
 * <p>All model-parallel ranks step together: whether a step is skipped is decided over all of them
 * (DeepSpeed 0.19.6, runtime/zero/stage_1_and_2.py, {@code has_overflow}).
 */
public final class OneStep {
  private static final List<String> COUNTERS =
      List.of("global_steps", "global_samples", "skipped_steps");
  private static final String STEP = "step";

  private final SourceReading reading;
  private final Map<String, PickledValue> counters = new LinkedHashMap<>();
  private final List<String> optimizers = new ArrayList<>();
  private final List<String> uncounted = new ArrayList<>();
  private int models;
  private Double step;
  private String firstOptimizer;
  private boolean sharded;

  OneStep(SourceReading reading) {
    this.reading = reading;
  }

  /**
   * Takes note of the model file of an mp rank.
   *
   * @param files how many model files agree with it
   * @throws RefusedException if another mp rank's was saved at another step
   */
  public void addModel(ModelStates model, int files) {
    for (String name : COUNTERS) {
      Optional<PickledValue> counter = model.root().findPresent(name);
      if (counter.isEmpty() || counter.get().asWhole().isEmpty()) {
        continue;
      }
      PickledValue other = counters.putIfAbsent(name, counter.get());
      if (other != null && !other.asWhole().equals(counter.get().asWhole())) {
        throw new RefusedException(
            counter.get().where(),
            "expected %d as in %s, found %d. The files are of different steps or runs."
                .formatted(other.asWhole().get(), other.file(), counter.get().asWhole().get()));
      }
    }
    models += files;
  }

  /**
   * Takes note of the optimizer files of an mp rank.
   *
   * @param source of the first rank's file
   * @param optimizer the inner optimizer's {@code state_dict()} in it
   * @param names the files of all ranks, which agree with it
   * @param ofZero3 whether no model weights are there to compare master weights with
   * @throws RefusedException if another mp rank's was saved at another step
   */
  public void addOptimizer(
      int source, TorchFile file, PickledValue optimizer, List<String> names, boolean ofZero3)
      throws IOException {
    sharded |= ofZero3;
    Optional<Double> counted = step(source, file, optimizer);
    if (counted.isEmpty()) {
      uncounted.addAll(names);
      return;
    }
    optimizers.addAll(names);
    if (step != null && !step.equals(counted.get())) {
      throw new RefusedException(
          file.path(),
          "the optimizer has made %s steps, in %s %s. The files are of different steps or runs."
              .formatted(text(counted.get()), firstOptimizer, text(step)));
    }
    step = counted.get();
    firstOptimizer = firstOptimizer == null ? file.path() : firstOptimizer;
  }

  /** The most steps that any state or param group counts. */
  private Optional<Double> step(int source, TorchFile file, PickledValue optimizer)
      throws IOException {
    TreeSet<Double> steps = new TreeSet<>();
    List<PickledValue> dicts = new ArrayList<>();
    if (optimizer.isList()) {
      dicts.addAll(optimizer.items());
    } else if (optimizer.isDict()) {
      optimizer
          .findPresent("state")
          .filter(PickledValue::isDict)
          .ifPresent(states -> states.children().forEach(entry -> dicts.add(entry.value())));
      optimizer
          .findPresent("param_groups")
          .filter(PickledValue::isList)
          .ifPresent(groups -> dicts.addAll(groups.items()));
    }
    for (PickledValue dict : dicts) {
      Optional<PickledValue> value = dict.isDict() ? dict.findPresent(STEP) : Optional.empty();
      if (value.isEmpty()) {
        continue;
      }
      if (value.get().node() instanceof PyInt || value.get().node() instanceof PyFloat) {
        value.get().asWhole().ifPresent(whole -> steps.add((double) whole));
      } else if (value.get().asTensor().filter(Replicated::isReplicated).isPresent()) {
        number(source, file, value.get()).ifPresent(steps::add);
      }
    }
    return steps.isEmpty() ? Optional.empty() : Optional.of(steps.last());
  }

  private Optional<Double> number(int source, TorchFile file, PickledValue value)
      throws IOException {
    TensorNode tensor = value.tensor();
    long at = reading.address(source, file, value.where(), tensor).offset();
    ByteBuffer bytes =
        reading.store().read(reading.sources().get(source).stat(), at, tensor.dtype().bytes());
    try {
      return Optional.of(Double.valueOf(ElementText.of(tensor.dtype(), bytes, 0)));
    } catch (NumberFormatException e) {
      return Optional.empty(); // a type that does not count
    }
  }

  private static String text(double steps) {
    return steps == Math.rint(steps) ? Long.toString((long) steps) : Double.toString(steps);
  }

  /** Steps that the model files count and did not skip; 0 if they do not say. */
  public long trainedSteps() {
    return whole("global_steps") - whole("skipped_steps");
  }

  private long whole(String counter) {
    return Optional.ofNullable(counters.get(counter)).flatMap(PickledValue::asWhole).orElse(0L);
  }

  /** What the counters prove. */
  public List<Evidence> evidence() {
    List<Evidence> evidence = new ArrayList<>();
    if (models > 0 && counters.containsKey("global_steps")) {
      evidence.add(
          Evidence.ofAll(
              "all model files are of one step", "global_steps " + whole("global_steps"), models));
    }
    if (!optimizers.isEmpty() || !uncounted.isEmpty()) {
      evidence.add(
          new Evidence(
              "all optimizer files are of one step",
              step == null ? "" : "their step " + text(step),
              optimizers.size(),
              uncounted,
              uncounted.isEmpty() ? "" : "the optimizer counts no steps in them"));
    }
    if (sharded && models > 0 && step != null && step != trainedSteps()) {
      reading.note(
          "the optimizer files count %s steps, the model files %d (%d of them skipped): that they were saved together is not proven. It is so where an optimizer was begun anew in a run that went on."
              .formatted(text(step), whole("global_steps"), whole("skipped_steps")));
    }
    return evidence;
  }
}
