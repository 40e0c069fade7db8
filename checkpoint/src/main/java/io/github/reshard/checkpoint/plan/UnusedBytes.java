package io.github.reshard.checkpoint.plan;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.state.Address;
import io.github.reshard.checkpoint.state.Extent;
import io.github.reshard.checkpoint.state.LocalTensor;
import io.github.reshard.checkpoint.state.PartitionedModel;
import io.github.reshard.checkpoint.state.PartitionedModel.ModuleWeight;
import io.github.reshard.checkpoint.state.PartitionedModel.Partition;
import io.github.reshard.checkpoint.state.StateLayout;
import io.github.reshard.checkpoint.torch.DType;
import io.github.reshard.checkpoint.torch.TorchFile;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.List;
import java.util.Map;

/**
 * The payload bytes of a source file that go nowhere: padding, and what another rank's file already
 * provides. They are read all the same, because a storage's CRC covers them.
 */
public final class UnusedBytes {
  private UnusedBytes() {}

  private record Use(int entry, long from, long to) {}

  /**
   * The runs of {@code file} that no proving slice reads.
   *
   * @throws RefusedException if two tensors claim the same bytes
   */
  public static List<SliceCopy> of(ReshardPlan plan, int file) {
    SourceFile source = plan.sources().get(file);
    List<Use> uses = new ArrayList<>();
    for (SliceCopy carried : plan.carried()) {
      if (carried.proves() && carried.source() != null && carried.source().file() == file) {
        long from = carried.source().offset();
        uses.add(new Use(carried.source().entry(), from, from + carried.bytes()));
      }
    }
    for (PartitionedModel model : plan.models()) {
      addPartitions(model, file, uses);
      addWeights(model, file, uses);
    }
    uses.sort(Comparator.comparingInt(Use::entry).thenComparingLong(Use::from));
    List<SliceCopy> unused = new ArrayList<>();
    int next = 0;
    for (int e = 0; e < source.entries().size(); e++) {
      TorchFile.Entry entry = source.entries().get(e);
      long at = entry.payloadOffset();
      for (; next < uses.size() && uses.get(next).entry() == e; next++) {
        Use use = uses.get(next);
        if (use.from() < at) {
          throw new RefusedException(
              source.stat().path() + ", entry " + entry.name(),
              "bytes %d to %d belong to two tensors of the optimizer, and only one can be right"
                  .formatted(use.from(), Math.min(at, use.to())));
        }
        if (use.from() > at) {
          unused.add(SliceCopy.readOnly(new Address(file, e, at), use.from() - at));
        }
        at = use.to();
      }
      long end = entry.payloadOffset() + entry.bytes();
      if (at < end) {
        unused.add(SliceCopy.readOnly(new Address(file, e, at), end - at));
      }
    }
    return unused;
  }

  private static void addPartitions(PartitionedModel model, int file, List<Use> uses) {
    for (Map.Entry<Partition, Address> p : model.sourcePartitions().entrySet()) {
      Address address = p.getValue();
      if (address.file() == file) {
        int bucket = p.getKey().bucket();
        int group = model.source().groupOf(bucket);
        String state = p.getKey().state();
        DType dtype = model.states().get(group).get(state);
        int rank = p.getKey().rank();
        StateLayout layout = model.sourceOf(group, state);
        for (Extent extent : layout.extentsIn(rank, bucket)) {
          LocalTensor local = used(layout, layout.holderOf(rank), extent.parameter());
          long from = address.offset() + extent.bucketStart() * dtype.bytes();
          addUsed(
              address.entry(),
              local,
              new LocalTensor.Run(extent.parameterStart(), extent.elements()),
              from,
              dtype.bytes(),
              uses);
        }
      }
    }
  }

  private static void addWeights(PartitionedModel model, int file, List<Use> uses) {
    for (int p = 0; p < model.weights().size(); p++) {
      ModuleWeight weight = model.weights().get(p);
      if (weight == null || !weight.moves()) {
        continue;
      }
      for (int holder = 0; holder < weight.sources().size(); holder++) {
        Address source = weight.sources().get(holder);
        if (source != null && source.file() == file) {
          LocalTensor local = used(model.source(), holder, p);
          addUsed(
              source.entry(),
              local,
              new LocalTensor.Run(0, local.elements()),
              source.offset(),
              weight.dtype().bytes(),
              uses);
        }
      }
    }
  }

  /** What is read of a local tensor: of another copy than the first, all of it is compared. */
  private static LocalTensor used(StateLayout layout, int holder, int parameter) {
    LocalTensor local = layout.localTensor(holder, parameter);
    return layout.copyOf(holder, parameter) > 0 ? LocalTensor.whole(local.shape()) : local;
  }

  /**
   * Adds what of {@code run} belongs to the parameter: rows behind the end of a vocabulary do not.
   *
   * @param from where the run begins in the file
   */
  private static void addUsed(
      int entry, LocalTensor local, LocalTensor.Run run, long from, int width, List<Use> uses) {
    long at = run.start();
    for (LocalTensor.Run padding : local.padding()) {
      LocalTensor.Run cut = padding.within(run.start(), run.elements());
      if (cut.elements() > 0) {
        add(entry, from, run.start(), at, cut.start(), width, uses);
        at = cut.start() + cut.elements();
      }
    }
    add(entry, from, run.start(), at, run.start() + run.elements(), width, uses);
  }

  private static void add(
      int entry, long from, long start, long begin, long end, int width, List<Use> uses) {
    if (begin < end) {
      uses.add(new Use(entry, from + (begin - start) * width, from + (end - start) * width));
    }
  }
}
