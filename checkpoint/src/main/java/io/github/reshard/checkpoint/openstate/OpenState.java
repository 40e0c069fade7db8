package io.github.reshard.checkpoint.openstate;

import io.github.reshard.checkpoint.RefusedException;
import java.math.BigDecimal;
import java.util.ArrayList;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Set;

/**
 * What {@code optimizer.json} says, checked for being whole; what is within values of DeepSpeed's
 * is looked at where they are used.
 *
 * @param path of the file, for messages
 * @param tag of the checkpoint that it was made of
 * @param zeroStage of that; none for BF16_Optimizer
 * @param groups the param groups
 * @param states for each trained parameter, by its name in the weights, the tensors of its states
 * @param module the module's tensors, in order
 * @param moduleState what the module's dict has as an attribute; null if nothing
 * @param frozen the names of frozen parameters; null if the model file said there are none to list
 * @param listsFrozen whether the model file said anything of frozen parameters
 * @param model further values of the model file
 * @param optimizer further values of the ZeRO optimizer
 * @param leftOut the names of what JSON has no place for
 */
record OpenState(
    String path,
    String tag,
    Optional<Integer> zeroStage,
    List<Group> groups,
    Map<String, States> states,
    List<ModuleTensor> module,
    Object moduleState,
    List<String> frozen,
    boolean listsFrozen,
    Map<String, ?> model,
    Map<String, ?> optimizer,
    List<String> leftOut) {

  /**
   * A param group.
   *
   * @param options its hyper-parameters
   * @param step how many steps its optimizer has made; null if it counts none
   * @param order its parameters by their names in the module
   * @param tuples the options that are tuples
   * @param state what of its state is not one number for each weight
   * @param stepOption the step where the options hold it
   */
  record Group(
      Map<String, ?> options,
      BigDecimal step,
      List<String> order,
      Set<String> tuples,
      Map<String, ?> state,
      Optional<BigDecimal> stepOption) {}

  /** The param group of a parameter and the tensor of each of its states. */
  record States(int group, Map<String, String> tensors) {}

  /**
   * A tensor of the module.
   *
   * @param tensor its name in the weights; null if it is another name of {@code sameAs}
   * @param dtype as PyTorch names it, in the run's module
   */
  record ModuleTensor(String name, String tensor, String dtype, String sameAs) {}

  /** The ZeRO stage that a run had; BF16_Optimizer's is 1. */
  int stage() {
    return zeroStage.orElse(1);
  }

  /**
   * Reads it.
   *
   * @throws RefusedException if it is no open state, of a version that is not known, or has not
   *     what DeepSpeed's files are made of
   */
  static OpenState parse(String path, Object json) {
    return new Reading(path).read(json);
  }

  private record Reading(String path) {
    OpenState read(Object json) {
      Map<String, ?> root = object("", json);
      BigDecimal version = number("version", root.get(OpenFormat.VERSION_KEY));
      if (version.signum() <= 0 || version.compareTo(BigDecimal.valueOf(OpenFormat.VERSION)) > 0) {
        throw refused("version", "expected %d, found %s.".formatted(OpenFormat.VERSION, version));
      }
      if (!(root.get(OpenFormat.OF_DEEPSPEED) instanceof Map<?, ?>)) {
        throw refused(
            OpenFormat.OF_DEEPSPEED,
            "expected what DeepSpeed's files say beside tensors, found nothing: it was exported"
                + " before Reshard wrote that, or from more than one model-parallel rank, layers of"
                + " a pipeline or experts. Export the checkpoint again.");
      }
      Map<String, ?> further = object(OpenFormat.OF_DEEPSPEED, root.get(OpenFormat.OF_DEEPSPEED));
      Object stage = further.get(OpenFormat.STAGE);
      boolean lists = further.containsKey(OpenFormat.FROZEN);
      Object frozen = further.get(OpenFormat.FROZEN);
      return new OpenState(
          path,
          tag(text(OpenFormat.TAG, further.get(OpenFormat.TAG))),
          stage == null ? Optional.empty() : Optional.of(stage(stage)),
          groups(root, further),
          states(root),
          module(further),
          further.get(OpenFormat.MODULE_STATE),
          frozen == null ? null : texts(OpenFormat.FROZEN, frozen),
          lists,
          object(OpenFormat.MODEL, further.get(OpenFormat.MODEL)),
          object(OpenFormat.OPTIMIZER, further.get(OpenFormat.OPTIMIZER)),
          texts(OpenFormat.LEFT_OUT, further.get(OpenFormat.LEFT_OUT)));
    }

    private int stage(Object json) {
      BigDecimal stage = number(OpenFormat.STAGE, json);
      if (stage.scale() != 0 || stage.signum() <= 0 || stage.compareTo(new BigDecimal(3)) > 0) {
        throw refused(OpenFormat.STAGE, "expected 1, 2, 3 or null, found %s.".formatted(stage));
      }
      return stage.intValue();
    }

    /** It becomes a path of the output. */
    private String tag(String tag) {
      for (String step : tag.split("/", -1)) {
        if (!step.matches("[A-Za-z0-9._=@+-]{1,255}") || step.matches("\\.{1,2}")) {
          throw refused(
              OpenFormat.TAG, "the tag '%s' cannot be the name of a directory.".formatted(tag));
        }
      }
      return tag;
    }

    private List<Group> groups(Map<String, ?> root, Map<String, ?> further) {
      List<?> groups = list(OpenFormat.PARAM_GROUPS, root.get(OpenFormat.PARAM_GROUPS));
      List<?> orders = list(OpenFormat.ORDER, further.get(OpenFormat.ORDER));
      List<?> values = list(OpenFormat.GROUPS, further.get(OpenFormat.GROUPS));
      if (groups.isEmpty() || orders.size() != groups.size() || values.size() != groups.size()) {
        throw refused(
            OpenFormat.PARAM_GROUPS,
            "has %d param groups, deepspeed.order %d and deepspeed.groups %d; they must be as many."
                .formatted(groups.size(), orders.size(), values.size()));
      }
      List<Group> read = new ArrayList<>();
      for (int g = 0; g < groups.size(); g++) {
        String where = OpenFormat.PARAM_GROUPS + "[" + g + "]";
        Map<String, ?> group = object(where, groups.get(g));
        Map<String, ?> beside = object(OpenFormat.GROUPS + "[" + g + "]", values.get(g));
        Object step = group.get(OpenFormat.STEP);
        List<String> order = texts(OpenFormat.ORDER + "[" + g + "]", orders.get(g));
        if (order.isEmpty()) {
          throw refused(OpenFormat.ORDER + "[" + g + "]", "names no parameter.");
        }
        read.add(
            new Group(
                object(where + ".options", group.get(OpenFormat.OPTIONS)),
                step == null ? null : number(where + ".step", step),
                order,
                Set.copyOf(
                    beside.containsKey(OpenFormat.TUPLES)
                        ? texts(OpenFormat.TUPLES, beside.get(OpenFormat.TUPLES))
                        : List.of()),
                beside.containsKey(OpenFormat.STATE)
                    ? object(OpenFormat.STATE, beside.get(OpenFormat.STATE))
                    : Map.of(),
                Optional.ofNullable(beside.get(OpenFormat.STEP_OPTION))
                    .map(option -> number(OpenFormat.STEP_OPTION, option))));
      }
      return read;
    }

    private Map<String, States> states(Map<String, ?> root) {
      Map<String, States> states = new LinkedHashMap<>();
      object(OpenFormat.PARAMETERS, root.get(OpenFormat.PARAMETERS))
          .forEach(
              (name, json) -> {
                String where = OpenFormat.PARAMETERS + "." + name;
                Map<String, ?> parameter = object(where, json);
                BigDecimal group = number(where + ".group", parameter.get(OpenFormat.GROUP));
                if (group.scale() != 0 || group.precision() > 9) {
                  throw refused(where + ".group", "expected an index, found " + group + ".");
                }
                Map<String, String> tensors = new LinkedHashMap<>();
                object(where + ".states", parameter.get(OpenFormat.STATES))
                    .forEach(
                        (state, tensor) ->
                            tensors.put(state, text(where + ".states." + state, tensor)));
                states.put(name, new States(group.intValue(), tensors));
              });
      return states;
    }

    private List<ModuleTensor> module(Map<String, ?> further) {
      List<ModuleTensor> module = new ArrayList<>();
      Set<String> seen = new HashSet<>();
      for (Object json : list(OpenFormat.MODULE, further.get(OpenFormat.MODULE))) {
        Map<String, ?> tensor = object(OpenFormat.MODULE, json);
        String name = text(OpenFormat.MODULE + ".name", tensor.get(OpenFormat.NAME));
        String where = OpenFormat.MODULE + "." + name;
        if (!seen.add(name)) {
          throw refused(where, "is named twice.");
        }
        module.add(
            tensor.containsKey(OpenFormat.SAME_AS)
                ? new ModuleTensor(name, null, null, text(where, tensor.get(OpenFormat.SAME_AS)))
                : new ModuleTensor(
                    name,
                    text(where + ".tensor", tensor.get(OpenFormat.TENSOR)),
                    text(where + ".dtype", tensor.get(OpenFormat.DTYPE)),
                    null));
      }
      return module;
    }

    private RefusedException refused(String where, String problem) {
      return new RefusedException(where.isEmpty() ? path : path + ", " + where, problem);
    }

    private Map<String, ?> object(String where, Object json) {
      if (json instanceof Map<?, ?> map) {
        Map<String, Object> object = new LinkedHashMap<>();
        map.forEach((key, value) -> object.put((String) key, value));
        return object;
      }
      throw refused(where, "expected a JSON object.");
    }

    private List<?> list(String where, Object json) {
      if (json instanceof List<?> list) {
        return list;
      }
      throw refused(where, "expected a list.");
    }

    private String text(String where, Object json) {
      if (json instanceof String text) {
        return text;
      }
      throw refused(where, "expected a text, found %s.".formatted(json));
    }

    private List<String> texts(String where, Object json) {
      List<String> texts = new ArrayList<>();
      list(where, json).forEach(item -> texts.add(text(where, item)));
      return texts;
    }

    private BigDecimal number(String where, Object json) {
      if (json instanceof BigDecimal number && Math.abs((long) number.scale()) < 400) {
        return number;
      }
      throw refused(where, "expected a number, found %s.".formatted(json));
    }
  }
}
