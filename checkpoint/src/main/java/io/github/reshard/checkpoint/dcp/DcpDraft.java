package io.github.reshard.checkpoint.dcp;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.deepspeed.RankLocal;
import io.github.reshard.checkpoint.deepspeed.SavedOptimizer;
import io.github.reshard.checkpoint.deepspeed.Scalar;
import io.github.reshard.checkpoint.pickle.PyInt;
import io.github.reshard.checkpoint.pickle.PyList;
import io.github.reshard.checkpoint.pickle.PyObject;
import io.github.reshard.checkpoint.pickle.PyStr;
import io.github.reshard.checkpoint.plan.ReshardPlan;
import io.github.reshard.checkpoint.plan.SliceCopy;
import io.github.reshard.checkpoint.plan.TargetFile;
import io.github.reshard.checkpoint.state.Address;
import io.github.reshard.checkpoint.state.Parameter;
import io.github.reshard.checkpoint.state.PartitionedModel;
import io.github.reshard.checkpoint.state.PartitionedModel.ModuleWeight;
import io.github.reshard.checkpoint.state.PartitionedModel.Partition;
import io.github.reshard.checkpoint.state.States;
import io.github.reshard.checkpoint.state.WholeTensors;
import io.github.reshard.checkpoint.torch.DType;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.stream.Stream;

/**
 * Plans a distributed checkpoint: every tensor whole in one chunk, because whoever loads it cuts it
 * for their own ranks.
 *
 * <p>Parameters are the fp32 master weights: FSDP2 keeps them in the type that it trains in, and
 * casts them for the forward pass.
 */
public final class DcpDraft {
  private static final String STEP = "step";
  private static final String PARAMS = "params";

  private final ReshardPlan read;
  private final DcpContent content;
  private final DcpDialect dialect;
  private final DcpTree model;
  private final DcpTree optimizer;
  private final List<Target> targets = new ArrayList<>();
  private final List<Moved> moved = new ArrayList<>();
  private final Map<String, Integer> modelPieces = new HashMap<>();
  private final Set<String> remarks = new LinkedHashSet<>();

  /** Where a state of a parameter goes. */
  private record Target(int model, int parameter, String state, DcpTree tree, int piece) {}

  /** A tensor that is copied in one piece. */
  private record Moved(DcpContent.Tensor tensor, int piece) {}

  private DcpDraft(ReshardPlan read, DcpContent content, DcpDialect dialect, String tag) {
    this.read = read;
    this.content = content;
    this.dialect = dialect;
    this.model = tree(read, tag, dialect.modelDirectory());
    this.optimizer =
        dialect.optimizerDirectory().equals(dialect.modelDirectory())
            ? model
            : tree(read, tag, dialect.optimizerDirectory());
  }

  private static DcpTree tree(ReshardPlan read, String tag, String inTag) {
    return new DcpTree(inTag.isEmpty() ? tag : tag + "/" + inTag, SaveId.of(read, inTag));
  }

  /**
   * The plan of a distributed checkpoint.
   *
   * @param read a plan of the same source, whose targets are replaced
   * @param content what is not partitioned
   * @param files into how many data files each of its directories is written
   * @throws RefusedException if the source has what a distributed checkpoint has no place for
   */
  public static ReshardPlan plan(
      ReshardPlan read, DcpContent content, DcpDialect dialect, int files) {
    DcpDraft writer = new DcpDraft(read, content, dialect, read.tag());
    writer.addParameters();
    writer.addTensors();
    writer.addTied();
    writer.addOptions();
    content
        .objects()
        .forEach(
            (path, value) ->
                writer.model.put(new DcpDialect.Key(path), writer.model.addValue(value)));
    content
        .clientTensors()
        .forEach(
            (path, tensor) -> writer.model.put(new DcpDialect.Key(path), writer.addMoved(tensor)));
    return writer.finished(files);
  }

  /**
   * Checks that every state of {@code read} is one number for each element and stands under a name
   * of its own.
   *
   * @throws RefusedException if one does not
   */
  public static void requireElementwise(ReshardPlan read) {
    for (PartitionedModel partitioned : read.models()) {
      if (!partitioned.whole().isEmpty()) {
        throw new RefusedException(
            read.checkpoint(),
            "it was trained with Muon, whose momentum is not cut with its parameter. Such state is"
                + " not taken to a distributed checkpoint.");
      }
      if (!partitioned.isFrozen()) {
        for (Map<String, DType> states : partitioned.states()) {
          for (String state : states.keySet()) {
            if (state.indexOf('.') >= 0) {
              throw new RefusedException(
                  read.checkpoint(),
                  "the optimizer keeps '%s' in a dict of its own, as bitsandbytes does. How such state looks under FSDP is not known, so it is not taken to a distributed checkpoint or from one: load the checkpoint once with an optimizer of torch.optim, and save it again."
                      .formatted(state));
            }
          }
        }
      }
    }
  }

  private void addParameters() {
    Map<Integer, Map<String, Integer>> scalars = new HashMap<>();
    for (int m = 0; m < read.models().size(); m++) {
      PartitionedModel partitioned = read.models().get(m);
      for (int p = 0; p < partitioned.parameters().size(); p++) {
        Parameter parameter = partitioned.parameters().get(p);
        for (Map.Entry<String, DType> state : partitioned.statesOf(p).entrySet()) {
          addState(m, p, parameter, state.getKey(), state.getValue());
        }
        if (!partitioned.isFrozen()) {
          scalars
              .computeIfAbsent(parameter.group(), this::addScalars)
              .forEach(
                  (name, piece) -> optimizer.put(dialect.state(parameter.name(), name), piece));
        }
      }
    }
  }

  private void addState(int m, int p, Parameter parameter, String state, DType dtype) {
    boolean ofModel = state.equals(States.MASTER) || state.equals(States.FROZEN);
    DcpTree tree = ofModel ? model : optimizer;
    int piece = tree.add(new Piece.OfSource(dtype, parameter.shape()));
    if (ofModel) {
      putWeight(parameter.name(), piece);
    } else {
      tree.put(dialect.state(parameter.name(), state), piece);
    }
    targets.add(new Target(m, p, state, tree, piece));
  }

  private void putWeight(String name, int piece) {
    model.put(dialect.model(name), piece);
    modelPieces.put(name, piece);
  }

  private OptimizerKind kind(int group) {
    Set<String> states = new HashSet<>();
    for (PartitionedModel partitioned : read.models()) {
      if (!partitioned.isFrozen() && group < partitioned.states().size()) {
        states.addAll(partitioned.states().get(group).keySet());
      }
    }
    states.remove(States.MASTER);
    SavedOptimizer.Group of = content.groups().get(group);
    OptimizerKind kind = OptimizerKind.of(states, of.scalars().keySet(), of.options().keySet());
    if (!kind.isOfTorch()) {
      remarks.add(
          "the optimizer is none of torch.optim, so its states and options go under the names that"
              + " it gave them: under FSDP it has to be the same class");
    }
    return kind;
  }

  /** The containers of what a parameter of {@code group} has once, by name. */
  private Map<String, Integer> addScalars(int group) {
    Map<String, Integer> pieces = new LinkedHashMap<>();
    SavedOptimizer.Group of = content.groups().get(group);
    boolean counts = kind(group).counts();
    if (counts && of.step().isEmpty()) {
      throw new RefusedException(
          of.where(),
          "does not say how many steps its optimizer has made, which the bias correction needs.");
    }
    if (counts) {
      pieces.put(STEP, optimizer.add(DcpTree.scalar((float) of.step().getAsDouble())));
    }
    of.scalars()
        .forEach(
            (name, scalar) -> {
              if (RankLocal.isOfOneRank(name)) {
                throw new RefusedException(
                    of.where(),
                    "its optimizer keeps '%s', which each rank computes from its own partition, as Adafactor and LAMB do: what it keeps means another thing where parameters are cut in another way. It is not taken to a distributed checkpoint."
                        .formatted(name));
              }
              if (!counts || !name.equals(STEP)) {
                pieces.put(
                    name,
                    scalar instanceof Scalar.OfTensor tensor
                        ? optimizer.add(new Piece.Scalar(tensor.dtype(), tensor.element()))
                        : optimizer.addValue(((Scalar.OfValue) scalar).value()));
              }
            });
    return pieces;
  }

  private void addTensors() {
    for (DcpContent.Tensor tensor : content.tensors()) {
      putWeight(tensor.name(), addMoved(tensor));
    }
  }

  private int addMoved(DcpContent.Tensor tensor) {
    int piece = model.add(new Piece.OfSource(tensor.dtype(), tensor.shape()));
    moved.add(new Moved(tensor, piece));
    return piece;
  }

  private void addTied() {
    content
        .tied()
        .forEach(
            (name, of) -> {
              Integer piece = modelPieces.get(of);
              if (piece == null) {
                throw new RefusedException(
                    read.checkpoint(),
                    "%s is another name of %s, which is no parameter of it.".formatted(name, of));
              }
              model.put(dialect.model(name), piece);
            });
  }

  private void addOptions() {
    Map<Integer, List<String>> names = new LinkedHashMap<>();
    for (PartitionedModel partitioned : read.models()) {
      if (!partitioned.isFrozen()) {
        for (Parameter parameter : partitioned.parameters()) {
          names.computeIfAbsent(parameter.group(), g -> new ArrayList<>()).add(parameter.name());
        }
      }
    }
    for (int g = 0; g < content.groups().size(); g++) {
      SavedOptimizer.Group group = content.groups().get(g);
      OptimizerKind kind = kind(g);
      Map<String, PyObject> options = kind.complete(group.options(), group.where());
      if (group.isStepOption()) {
        options.put(STEP, PyInt.of((long) group.step().orElseThrow()));
      }
      if (group.options().isEmpty()) {
        remarks.add(
            "elastic_checkpoint saved no hyper-parameters, and none are made up: load it with"
                + " DefaultLoadPlanner(allow_partial_load=True), and the script's own stay");
      }
      List<String> parameters = names.getOrDefault(g, List.of());
      for (Map.Entry<String, PyObject> option : options.entrySet()) {
        int piece = optimizer.addValue(option.getValue());
        if (dialect.isFlat()) {
          parameters.forEach(name -> optimizer.put(dialect.option(name, option.getKey()), piece));
        } else {
          optimizer.put(dialect.option(g, option.getKey()), piece);
        }
      }
      if (!dialect.isFlat()) {
        PyList params = PyList.of(parameters.stream().map(PyStr::new).toList());
        optimizer.put(dialect.option(g, PARAMS), optimizer.addValue(params));
      }
    }
  }

  private ReshardPlan finished(int files) {
    List<TargetFile> written = new ArrayList<>();
    DcpTree.Planned ofModel = model.plan(0, files);
    written.addAll(ofModel.targets());
    DcpTree.Planned ofOptimizer = ofModel;
    if (optimizer != model) {
      ofOptimizer = optimizer.plan(written.size(), files);
      written.addAll(ofOptimizer.targets());
    }
    Map<Integer, Map<Partition, Address>> partitions = new HashMap<>();
    for (Target target : targets) {
      Address address =
          (target.tree() == model ? ofModel : ofOptimizer).addresses().get(target.piece());
      partitions
          .computeIfAbsent(target.model(), any -> new HashMap<>())
          .put(new Partition(0, target.parameter(), target.state()), address);
    }
    List<PartitionedModel> models = new ArrayList<>();
    for (int m = 0; m < read.models().size(); m++) {
      models.add(retargeted(read.models().get(m), partitions.getOrDefault(m, Map.of())));
    }
    List<SliceCopy> carried = new ArrayList<>();
    for (Moved tensor : moved) {
      long bytes =
          DcpMetadata.Chunk.elements(tensor.tensor().shape()) * tensor.tensor().dtype().bytes();
      if (bytes > 0) {
        carried.add(
            SliceCopy.of(
                tensor.tensor().address(), ofModel.addresses().get(tensor.piece()), bytes, false));
      }
    }
    return new ReshardPlan(
        read.checkpoint(),
        read.tag(),
        read.sourceWorldSize(),
        ReshardPlan.ANY_WORLD_SIZE,
        read.parallelism(),
        read.sources(),
        written,
        models,
        carried,
        List.of(),
        read.evidence(),
        Stream.concat(read.notes().stream(), remarks.stream()).toList(),
        read.partBytes());
  }

  /** The same parameters, each whole; module weights are compared and go nowhere. */
  private static PartitionedModel retargeted(
      PartitionedModel read, Map<Partition, Address> partitions) {
    List<ModuleWeight> weights = new ArrayList<>();
    for (ModuleWeight weight : read.weights()) {
      weights.add(
          weight == null || weight.source() == null
              ? null
              : new ModuleWeight(weight.dtype(), weight.sources(), List.of()));
    }
    return new PartitionedModel(
        read.mpRank(),
        read.expertRank(),
        read.source(),
        new WholeTensors(read.parameters()),
        read.states(),
        read.sourcePartitions(),
        partitions,
        weights,
        read.whole());
  }
}
