package io.github.reshard.checkpoint.dcp;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.pickle.PyDict;
import io.github.reshard.checkpoint.pickle.PyEntries;
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
import java.util.List;
import java.util.Map;
import java.util.OptionalDouble;
import java.util.Set;

/**
 * Plans a distributed checkpoint: every tensor whole in one chunk, because whoever loads it cuts it
 * for their own ranks.
 *
 * <p>Parameters are the fp32 master weights: FSDP2 keeps them in the type that it trains in, and
 * casts them for the forward pass.
 */
public final class DcpWriter {
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

  /** Where a state of a parameter goes. */
  private record Target(int model, int parameter, String state, DcpTree tree, int piece) {}

  /** A tensor that is copied in one piece. */
  private record Moved(DcpContent.Tensor tensor, int piece) {}

  private DcpWriter(ReshardPlan read, DcpContent content, DcpDialect dialect, String tag) {
    this.read = read;
    this.content = content;
    this.dialect = dialect;
    this.model = new DcpTree(directory(tag, dialect.modelDirectory()));
    this.optimizer =
        dialect.optimizerDirectory().equals(dialect.modelDirectory())
            ? model
            : new DcpTree(directory(tag, dialect.optimizerDirectory()));
  }

  private static String directory(String tag, String inTag) {
    return inTag.isEmpty() ? tag : tag + "/" + inTag;
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
    DcpWriter writer = new DcpWriter(read, content, dialect, read.tag());
    writer.addParameters();
    writer.addTensors();
    writer.addTied();
    writer.addOptions();
    content.objects().forEach(writer::addObject);
    return writer.finished(files);
  }

  /**
   * Checks that every state of {@code read} is one number for each element, of an optimizer that
   * FSDP has too.
   *
   * @throws RefusedException if one is not
   */
  public static void requireElementwise(ReshardPlan read) {
    for (PartitionedModel partitioned : read.models()) {
      if (!partitioned.whole().isEmpty()) {
        throw new RefusedException(
            read.checkpoint(),
            "it was trained with Muon, whose momentum is not cut with its parameter. Such state is not taken to a distributed checkpoint.");
      }
      if (!isFrozen(partitioned)) {
        for (Map<String, DType> states : partitioned.states()) {
          kind(states.keySet(), read.checkpoint());
        }
      }
    }
  }

  private static boolean isFrozen(PartitionedModel model) {
    return !model.states().isEmpty() && model.states().get(0).containsKey(States.FROZEN);
  }

  private void addParameters() {
    Map<Integer, Integer> steps = new HashMap<>();
    for (int m = 0; m < read.models().size(); m++) {
      PartitionedModel partitioned = read.models().get(m);
      for (int p = 0; p < partitioned.parameters().size(); p++) {
        Parameter parameter = partitioned.parameters().get(p);
        for (Map.Entry<String, DType> state : partitioned.statesOf(p).entrySet()) {
          addState(m, p, parameter, state.getKey(), state.getValue());
        }
        if (!isFrozen(partitioned) && kind(parameter.group()).counts()) {
          int piece = steps.computeIfAbsent(parameter.group(), this::stepPiece);
          optimizer.put(dialect.state(parameter.name(), STEP), piece);
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
      if (!isFrozen(partitioned) && group < partitioned.states().size()) {
        states.addAll(partitioned.states().get(group).keySet());
      }
    }
    return kind(states, read.checkpoint());
  }

  private static OptimizerKind kind(Set<String> states, String where) {
    Set<String> ofOptimizer = new HashSet<>(states);
    ofOptimizer.remove(States.MASTER);
    return OptimizerKind.of(ofOptimizer, where);
  }

  private int stepPiece(int group) {
    OptionalDouble step = content.groups().get(group).step();
    if (step.isEmpty()) {
      throw new RefusedException(
          content.groups().get(group).where(),
          "does not say how many steps its optimizer has made, which the bias correction needs.");
    }
    return optimizer.add(DcpTree.scalar((float) step.getAsDouble()));
  }

  private void addTensors() {
    for (DcpContent.Tensor tensor : content.tensors()) {
      int piece = model.add(new Piece.OfSource(tensor.dtype(), tensor.shape()));
      putWeight(tensor.name(), piece);
      moved.add(new Moved(tensor, piece));
    }
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
      if (!isFrozen(partitioned)) {
        for (Parameter parameter : partitioned.parameters()) {
          names.computeIfAbsent(parameter.group(), g -> new ArrayList<>()).add(parameter.name());
        }
      }
    }
    for (int g = 0; g < content.groups().size(); g++) {
      DcpContent.Group group = content.groups().get(g);
      Map<String, PyObject> options = kind(g).complete(group.options(), group.where());
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

  /** As DCP saves a dict: each of its entries by itself. */
  private void addObject(String name, PyObject value) {
    add(DcpMetadata.Step.keys(name), value);
  }

  private void add(List<DcpMetadata.Step> path, PyObject value) {
    if (value instanceof PyDict dict && dict.entries().size() > 0) {
      for (PyEntries.Entry entry : dict.entries()) {
        List<DcpMetadata.Step> further = new ArrayList<>(path);
        further.add(new DcpMetadata.Step.Key(text(entry.key())));
        add(further, entry.value());
      }
    } else {
      model.put(new DcpDialect.Key(path), model.addValue(value));
    }
  }

  private String text(PyObject key) {
    if (key instanceof PyStr name) {
      return name.value();
    }
    if (key instanceof PyInt number) {
      return number.value().toString();
    }
    throw new RefusedException(
        read.checkpoint(),
        "a dict in the client state has a key that is neither a text nor a number, for which a distributed checkpoint has no place.");
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
        read.notes(),
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
              : new ModuleWeight(weight.dtype(), weight.source(), null));
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
