package io.github.reshard.checkpoint.dcp;

import io.github.reshard.checkpoint.dcp.DcpMetadata.Step;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Locale;
import java.util.Optional;

/**
 * Under which keys a program expects what a checkpoint holds. All are what {@code
 * torch.distributed.checkpoint.state_dict.get_state_dict} gives, under names of the program's.
 */
public enum DcpDialect {
  /** {@code {"model": ..., "optim": ...}}, as PyTorch's own examples have it. */
  TORCH("torch", "model", "optim", false, "", ""),
  /** The same with {@code flatten_optimizer_state_dict}. */
  TORCH_FLAT("torchFlat", "model", "optim", true, "", ""),
  /** torchtitan, components/checkpoint.py: the model's keys at the top, a flat optimizer. */
  TORCHTITAN("torchtitan", "", "optimizer", true, "", ""),
  /** Accelerate 1.10, utils/fsdp_utils.py: model and optimizer in directories of their own. */
  ACCELERATE("accelerate", "model", "optimizer", false, "pytorch_model_fsdp_0", "optimizer_0");

  private static final String STATE = "state";
  private static final String GROUPS = "param_groups";

  private final String name;
  private final String model;
  private final String optimizer;
  private final boolean flat;
  private final String modelDirectory;
  private final String optimizerDirectory;

  DcpDialect(
      String name,
      String model,
      String optimizer,
      boolean flat,
      String modelDirectory,
      String optimizerDirectory) {
    this.name = name;
    this.model = model;
    this.optimizer = optimizer;
    this.flat = flat;
    this.modelDirectory = modelDirectory;
    this.optimizerDirectory = optimizerDirectory;
  }

  /** A key and where in the nested state dict it stands. */
  record Key(List<Step> path) {
    private static Key of(String... names) {
      return new Key(Step.keys(names));
    }

    /** As PyTorch joins them (torch/distributed/checkpoint/_nested_dict.py). */
    String flat() {
      StringBuilder flat = new StringBuilder();
      for (Step step : path) {
        flat.append(flat.isEmpty() ? "" : ".");
        flat.append(step instanceof Step.Index index ? index.position() : ((Step.Key) step).name());
      }
      return flat.toString();
    }
  }

  /** How the option names it. */
  public String optionName() {
    return name;
  }

  /** Whether each parameter has its own options, instead of a list of groups. */
  boolean isFlat() {
    return flat;
  }

  /** The directory with the model's keys, in the tag's; empty for that one itself. */
  String modelDirectory() {
    return modelDirectory;
  }

  /** The directory with the optimizer's keys, in the tag's; empty for that one itself. */
  String optimizerDirectory() {
    return optimizerDirectory;
  }

  /** A tensor of the model. */
  Key model(String name) {
    return model.isEmpty() ? Key.of(name) : Key.of(model, name);
  }

  /** A state of a parameter. */
  Key state(String parameter, String state) {
    return flat
        ? Key.of(optimizer, STATE + "." + parameter + "." + state)
        : Key.of(optimizer, STATE, parameter, state);
  }

  /** An option of a param group, for a dialect that is not flat. */
  Key option(int group, String option) {
    List<Step> path = new ArrayList<>(Step.keys(optimizer, GROUPS));
    path.add(new Step.Index(group));
    path.add(new Step.Key(option));
    return new Key(path);
  }

  /** An option of the group that a parameter is in, for a flat dialect. */
  Key option(String parameter, String option) {
    return Key.of(optimizer, GROUPS + "." + parameter + "." + option);
  }

  @Override
  public String toString() {
    return name.toLowerCase(Locale.ROOT);
  }

  /** The dialect of that name; PyTorch's own if none is said. */
  public static DcpDialect of(Optional<String> name) {
    return Arrays.stream(values())
        .filter(one -> Optional.of(one.optionName()).equals(name))
        .findFirst()
        .orElse(TORCH);
  }

  /** The names of all. */
  public static List<String> names() {
    return Arrays.stream(values()).map(DcpDialect::optionName).toList();
  }
}
