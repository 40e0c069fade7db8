package io.github.reshard.checkpoint.plan;

import io.github.reshard.checkpoint.state.Address;
import io.github.reshard.checkpoint.state.DegreeChange;
import io.github.reshard.checkpoint.state.Models;
import io.github.reshard.checkpoint.state.Models.Model;
import io.github.reshard.checkpoint.state.ParamId;
import io.github.reshard.checkpoint.state.Parameter;
import io.github.reshard.checkpoint.state.PartitionedModel;
import io.github.reshard.checkpoint.state.PartitionedModel.Partition;
import io.github.reshard.checkpoint.state.States;
import io.github.reshard.checkpoint.storage.FileStat;
import io.github.reshard.checkpoint.torch.DType;
import io.github.reshard.checkpoint.torch.TorchFile;
import io.github.reshard.checkpoint.zero12.FlatLayout;
import java.nio.ByteBuffer;
import java.util.ArrayList;
import java.util.Collections;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * The partitions of a model in memory: one file a rank, one entry a group and state, a gap before
 * each. Scattered as DeepSpeed does it, by laying parameters end to end.
 */
final class Scattered {
  static final Map<String, DType> STATES = new LinkedHashMap<>();

  static {
    STATES.put("exp_avg", DType.FLOAT16);
    STATES.put(States.MASTER, DType.FLOAT32);
  }

  private static final int GAP_BYTES = 7;

  final FlatLayout layout;
  final byte[][] files;
  final Map<Partition, Address> partitions = new HashMap<>();
  final List<List<TorchFile.Entry>> entries = new ArrayList<>();

  private Scattered(FlatLayout layout) {
    this.layout = layout;
    this.files = new byte[layout.worldSize()][];
    for (int rank = 0; rank < layout.worldSize(); rank++) {
      List<TorchFile.Entry> inFile = new ArrayList<>();
      int at = GAP_BYTES;
      for (int g = 0; g < layout.buckets(); g++) {
        for (Map.Entry<String, DType> state : STATES.entrySet()) {
          int bytes = Math.toIntExact(layout.bucketElements(g) * state.getValue().bytes());
          partitions.put(
              new Partition(rank, g, state.getKey()), new Address(rank, inFile.size(), at));
          inFile.add(new TorchFile.Entry("data/" + inFile.size(), 0, at, bytes, 0, 0));
          at += bytes + GAP_BYTES;
        }
      }
      files[rank] = new byte[at];
      entries.add(inFile);
    }
  }

  static Scattered empty(Model model, int ranks) {
    return new Scattered(model.layout(ranks));
  }

  /** With an own value in every element: its number, counted over parameters and states. */
  static Scattered of(Model model, int ranks) {
    Scattered scattered = empty(model, ranks);
    int value = 1;
    int first = 0;
    for (int g = 0; g < model.groups().size(); g++) {
      int size = model.groups().get(g).size();
      for (Map.Entry<String, DType> state : STATES.entrySet()) {
        int[] begin = new int[size + 1];
        for (int p = 0; p < size; p++) {
          begin[p + 1] = begin[p] + (int) scattered.layout.parameters().get(first + p).elements();
        }
        int width = state.getValue().bytes();
        int partition = Math.toIntExact(scattered.layout.bucketElements(g) * width);
        ByteBuffer flat = ByteBuffer.allocate(partition * ranks);
        for (int p : Models.dealOut(size, model.roundRobin() ? ranks : 1)) {
          for (int element = begin[p]; element < begin[p + 1]; element++) {
            if (width == 2) {
              flat.putShort((short) (value + element));
            } else {
              flat.putInt(value + element);
            }
          }
        }
        for (int rank = 0; rank < ranks; rank++) {
          Address address = scattered.partitions.get(new Partition(rank, g, state.getKey()));
          flat.get(rank * partition, scattered.files[rank], (int) address.offset(), partition);
        }
        value += begin[size];
      }
      first += size;
    }
    return scattered;
  }

  PartitionedModel to(Scattered target) {
    List<Parameter> parameters = layout.parameters();
    return new PartitionedModel(
        0,
        ParamId.NO_EXPERT,
        layout,
        target.layout,
        Collections.nCopies(layout.buckets(), STATES),
        partitions,
        target.partitions,
        new ArrayList<>(Collections.nCopies(parameters.size(), null)));
  }

  ReshardPlan plan(PartitionedModel model) {
    return plan(files, entries, model);
  }

  /** A plan that knows the files of the source and one model, and nothing else. */
  static ReshardPlan plan(
      byte[][] files, List<List<TorchFile.Entry>> entries, PartitionedModel model) {
    List<SourceFile> sources = new ArrayList<>();
    for (int file = 0; file < files.length; file++) {
      String name = "rank" + file;
      sources.add(
          new SourceFile(
              new FileStat(name, name, files[file].length, "", false), entries.get(file), true));
    }
    return new ReshardPlan(
        "checkpoint",
        "tag",
        model.source().worldSize(),
        model.target().worldSize(),
        DegreeChange.NONE,
        sources,
        List.of(),
        List.of(model),
        List.of(),
        List.of(),
        List.of(),
        List.of(),
        1 << 20);
  }

  /** Everything that moves from here to {@code target}, as the job makes it. */
  List<SliceCopy> copiesTo(Scattered target) {
    PartitionedModel model = to(target);
    Map<Integer, List<RankSlice>> slices = new HashMap<>();
    for (int rank = 0; rank < layout.worldSize(); rank++) {
      Repartition.slicesOfRank(
          model, rank, (s, p) -> slices.computeIfAbsent(p, k -> new ArrayList<>()).add(s));
    }
    List<SliceCopy> copies = new ArrayList<>();
    slices.forEach(
        (p, ofParameter) -> {
          Collections.reverse(ofParameter);
          Repartition.copies(
              model,
              p,
              Repartition.assemble(model, p, model.id("checkpoint", p), ofParameter),
              copies::add);
        });
    for (int rank = 0; rank < target.layout.worldSize(); rank++) {
      Repartition.targetPadding(plan(model), 0, rank, copies::add);
    }
    return copies;
  }
}
