package io.github.reshard.pipeline;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.format.CheckpointReader;
import io.github.reshard.checkpoint.format.CheckpointWriter;
import io.github.reshard.checkpoint.format.PlanDraft;
import io.github.reshard.checkpoint.format.SourceReading;
import io.github.reshard.checkpoint.format.Target;
import io.github.reshard.checkpoint.format.TrainingState;
import io.github.reshard.checkpoint.plan.NewFile;
import io.github.reshard.checkpoint.plan.Recipe;
import io.github.reshard.checkpoint.plan.ReshardPlan;
import io.github.reshard.checkpoint.plan.SourceFile;
import io.github.reshard.checkpoint.plan.TargetFile;
import io.github.reshard.checkpoint.state.Address;
import io.github.reshard.checkpoint.state.ParamId;
import io.github.reshard.checkpoint.state.Parameter;
import io.github.reshard.checkpoint.state.ParameterSet;
import io.github.reshard.checkpoint.state.PartitionedModel.Partition;
import io.github.reshard.checkpoint.state.WholeTensors;
import io.github.reshard.checkpoint.storage.FileStat;
import io.github.reshard.checkpoint.storage.SourceStore;
import io.github.reshard.checkpoint.torch.ByteSegment;
import io.github.reshard.checkpoint.torch.DType;
import io.github.reshard.checkpoint.torch.TorchFile;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * A format of a few lines, to see that a format needs no more: {@code docs/architecture.md} walks
 * through it. A tag has {@code parameters.txt}, a line for each state of each parameter with its
 * name, its shape, the state and its type, and the elements of the state of line {@code n} in
 * {@code n.raw}, little endian and nothing else.
 */
final class RawFormat {
  static final String INDEX = "parameters.txt";

  private RawFormat() {}

  /**
   * One state of one parameter.
   *
   * @param shape elements in each dimension
   */
  private record Line(String name, List<Long> shape, String state, DType dtype) {
    static Line parse(String text) {
      String[] words = text.split(" ", -1);
      List<Long> shape = Arrays.stream(words[1].split("x")).map(Long::valueOf).toList();
      return new Line(words[0], shape, words[2], DType.valueOf(words[3]));
    }

    String text() {
      String shaped = String.join("x", shape.stream().map(String::valueOf).toList());
      return "%s %s %s %s%n".formatted(name, shaped, state, dtype.name());
    }
  }

  /** A file that is nothing but payload. */
  private record RawFile() implements Recipe {
    @Override
    public List<ByteSegment> skeleton(
        ReshardPlan plan, SourceStore store, int target, List<Integer> crcs) {
      return List.of();
    }
  }

  /** Reads it: which parameters there are, and where their states lie. */
  record Reader(SourceStore store, String directory, String tag) implements CheckpointReader {
    @Override
    public TrainingState read(int targetWorldSize) throws IOException {
      String folder = store.child(directory, tag);
      Map<String, FileStat> files = new LinkedHashMap<>();
      store.list(folder).files().forEach(file -> files.put(file.name(), file));
      SourceReading reading = new SourceReading(store, folder, tag);
      reading.setDataParallelRanks(files.get(INDEX), 1);
      String index =
          StandardCharsets.UTF_8
              .decode(store.read(files.get(INDEX), 0, files.get(INDEX).bytes()))
              .toString();
      List<Line> lines = index.lines().map(Line::parse).toList();
      Map<String, Integer> numbers = new LinkedHashMap<>();
      List<Parameter> parameters = new ArrayList<>();
      List<Map<String, DType>> states = new ArrayList<>();
      for (Line line : lines) {
        if (numbers.putIfAbsent(line.name(), parameters.size()) == null) {
          parameters.add(new Parameter(line.name(), line.shape(), parameters.size()));
          states.add(new LinkedHashMap<>());
        }
        states.get(numbers.get(line.name())).put(line.state(), line.dtype());
      }
      ParameterSet set = ParameterSet.begin(0, ParamId.NO_EXPERT, new WholeTensors(parameters));
      set.states().addAll(states);
      parameters.forEach(parameter -> set.weights().add(null));
      for (int n = 0; n < lines.size(); n++) {
        Line line = lines.get(n);
        FileStat file = files.get(n + ".raw");
        Parameter parameter = parameters.get(numbers.get(line.name()));
        if (file == null || file.bytes() != parameter.elements() * line.dtype().bytes()) {
          throw new RefusedException(folder, "%d.raw is not all of %s.".formatted(n, line));
        }
        TorchFile.Entry all = new TorchFile.Entry("", 0, 0, file.bytes(), 0, 0);
        int source = reading.addSource(new SourceFile(file, List.of(all), false));
        set.partitions()
            .put(
                new Partition(0, numbers.get(line.name()), line.state()),
                new Address(source, 0, 0));
      }
      reading.addParameters(set);
      return reading.state();
    }
  }

  /** Writes it, of a state of any format. */
  record Writer() implements CheckpointWriter {
    @Override
    public ReshardPlan plan(TrainingState state, Target target) {
      PlanDraft draft = new PlanDraft(state, target);
      StringBuilder index = new StringBuilder();
      int n = 0;
      for (ParameterSet set : state.parameters()) {
        int model = draft.addModel(set, new WholeTensors(set.parameters()));
        for (int p = 0; p < set.parameters().size(); p++) {
          Parameter parameter = set.parameters().get(p);
          for (Map.Entry<String, DType> of : set.statesOf(p).entrySet()) {
            long bytes = parameter.elements() * of.getValue().bytes();
            int file =
                draft.addFile(
                    new TargetFile(
                        draft.inTag(n++ + ".raw"),
                        bytes,
                        new RawFile(),
                        List.of(new TargetFile.Entry("", 0, bytes))));
            draft.place(model, new Partition(0, p, of.getKey()), new Address(file, 0, 0));
            index.append(
                new Line(parameter.name(), parameter.shape(), of.getKey(), of.getValue()).text());
          }
        }
      }
      byte[] text = index.toString().getBytes(StandardCharsets.UTF_8);
      draft.addFile(new TargetFile(draft.inTag(INDEX), text.length, new NewFile(text), List.of()));
      return draft.plan();
    }
  }
}
