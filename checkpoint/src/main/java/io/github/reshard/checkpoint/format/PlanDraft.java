package io.github.reshard.checkpoint.format;

import io.github.reshard.checkpoint.plan.Evidence;
import io.github.reshard.checkpoint.plan.Recipe;
import io.github.reshard.checkpoint.plan.ReshardPlan;
import io.github.reshard.checkpoint.plan.SliceCopy;
import io.github.reshard.checkpoint.plan.SourceFile;
import io.github.reshard.checkpoint.plan.TargetFile;
import io.github.reshard.checkpoint.plan.WholeFile;
import io.github.reshard.checkpoint.state.Address;
import io.github.reshard.checkpoint.state.DegreeChange;
import io.github.reshard.checkpoint.state.ModelParallelism;
import io.github.reshard.checkpoint.state.ParameterSet;
import io.github.reshard.checkpoint.state.PartitionedModel;
import io.github.reshard.checkpoint.state.PartitionedModel.ModuleWeight;
import io.github.reshard.checkpoint.state.PartitionedModel.Partition;
import io.github.reshard.checkpoint.state.ZeroLayout;
import io.github.reshard.checkpoint.torch.TorchFile;
import java.util.ArrayList;
import java.util.Collections;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Set;

/** What a writer plans of a training state until it is a {@link ReshardPlan}. */
public final class PlanDraft {
  private final TrainingState state;
  private final Target target;
  private final String tag;
  private final List<TargetFile> targets = new ArrayList<>();
  private final List<PartitionedModel> models = new ArrayList<>();
  private final List<SliceCopy> carried = new ArrayList<>();
  private final List<ReshardPlan.Padding> padding = new ArrayList<>();
  private final List<String> notes;
  private DegreeChange parallelism;
  private final Set<Long> proven = new HashSet<>();

  /**
   * @param tag that is written
   */
  public PlanDraft(TrainingState state, Target target, String tag) {
    this.state = state;
    this.target = target;
    this.tag = tag;
    this.notes = new ArrayList<>(state.notes());
    this.parallelism = state.parallelism();
  }

  /** A plan that keeps the tag. */
  public PlanDraft(TrainingState state, Target target) {
    this(state, target, state.tag());
  }

  /**
   * A plan that reads a checkpoint and writes nothing, for writers that make a plan of another.
   *
   * @param target of the plan that is made of it
   */
  public static ReshardPlan ofNothing(TrainingState state, Target target) {
    PlanDraft draft = new PlanDraft(state, target);
    state.parameters().forEach(set -> draft.addModel(set, set.layout()));
    return draft.plan(state.dataParallelRanks(), state.evidence());
  }

  /** What is written. */
  public TrainingState state() {
    return state;
  }

  /** Data-parallel ranks of the target. */
  public int worldSize() {
    return target.worldSize();
  }

  /** The path of a file of the tag, relative to the output. */
  public String inTag(String name) {
    return tag.isEmpty() ? name : tag + "/" + name;
  }

  /** Says something to the user. */
  public void note(String note) {
    notes.add(note);
  }

  /** Sets how the target's GPUs share the model, if not as the state's parts do. */
  public void setParallelism(ModelParallelism other) {
    parallelism = parallelism.with(other);
  }

  /** The partitioned parameters so far, for recipes. */
  public List<PartitionedModel> models() {
    return Collections.unmodifiableList(models);
  }

  /**
   * Registers parameters that are partitioned; their index in the plan.
   *
   * @param set the parameters as they were read
   * @param layout how they lie in the target
   */
  public int addModel(ParameterSet set, ZeroLayout layout) {
    models.add(
        new PartitionedModel(
            set.mpRank(),
            set.expertRank(),
            set.layout(),
            layout,
            set.states(),
            set.partitions(),
            new HashMap<>(),
            new ArrayList<>(set.weights()),
            set.whole()));
    return models.size() - 1;
  }

  /** Says where a partition of the target begins. */
  public void place(int model, Partition partition, Address begin) {
    models.get(model).targetPartitions().put(partition, begin);
  }

  /** Says where the module's weight of a parameter goes. */
  public void placeWeight(int model, int parameter, ModuleWeight weight) {
    models.get(model).weights().set(parameter, weight);
  }

  /** The module's weights go nowhere. */
  public void dropWeights(int model) {
    models.get(model).weights().replaceAll(weight -> weight == null ? null : weight.dropped());
  }

  /** What the padding of a state holds. */
  public void pad(ReshardPlan.Padding filled) {
    padding.add(filled);
  }

  /** A copy, or zeros, that no parameter has. */
  public void carry(SliceCopy slice) {
    carried.add(slice);
  }

  /** All files that go along as they are. */
  public void carryFiles() {
    state.carried().forEach(this::carry);
  }

  /** A file that goes along as it is; the bytes of its entries are proven. */
  public void carry(CarriedFile carriedFile) {
    int source = carriedFile.source();
    SourceFile file = state.sources().get(source);
    long bytes = file.stat().bytes();
    int index = targets.size();
    targets.add(
        new TargetFile(
            carriedFile.ofTag() ? inTag(carriedFile.path()) : carriedFile.path(),
            bytes,
            new WholeFile(source),
            List.of(new TargetFile.Entry("", 0, bytes))));
    long at = 0;
    for (int e = 0; e < file.entries().size(); e++) {
      TorchFile.Entry entry = file.entries().get(e);
      carry(
          new Address(source, Addresses.NO_ENTRY, at),
          new Address(index, 0, at),
          entry.payloadOffset() - at);
      carry(
          new Address(source, e, entry.payloadOffset()),
          new Address(index, 0, entry.payloadOffset()),
          entry.bytes());
      at = entry.payloadOffset() + entry.bytes();
    }
    carry(new Address(source, Addresses.NO_ENTRY, at), new Address(index, 0, at), bytes - at);
  }

  /** Plans a file of any kind, whose payload comes to where slices are placed; its index. */
  public int addFile(TargetFile file) {
    targets.add(file);
    return targets.size() - 1;
  }

  /**
   * A file that is written anew.
   *
   * @param index into the plan's targets
   * @param storages where each of its storages begins
   */
  public record Written(int index, List<Address> storages) {}

  /** Plans a torch file that {@code recipe} makes of a file of the source. */
  public Written addFile(String path, TorchRecipe recipe, ReadFile template) {
    return addFile(path, recipe, pickled(recipe, template), template);
  }

  /** What {@code recipe} makes of a file of the source, which several files may say. */
  public TorchTarget.Pickled pickled(TorchRecipe recipe, ReadFile template) {
    return TorchTarget.pickled(template.file(), recipe, models, target.worldSize());
  }

  /**
   * Plans a torch file that says {@code content}.
   *
   * @param template the file that it was made of
   */
  public Written addFile(
      String path, TorchRecipe recipe, TorchTarget.Pickled content, ReadFile template) {
    return addFile(
        path,
        recipe,
        TorchTarget.plan(
            template.file(),
            path.substring(path.lastIndexOf('/') + 1),
            content,
            state.dataParallelRanks(),
            target.worldSize()),
        template);
  }

  /**
   * Plans a torch file, and has copied what it takes over from its template. Storages of 0 bytes
   * are no entries of it.
   *
   * @param template the file of which storages are carried, or null if none are
   */
  public Written addFile(
      String path, Recipe recipe, TorchTarget.Planned planned, ReadFile template) {
    List<TargetFile.Entry> entries = new ArrayList<>();
    List<Address> begins = new ArrayList<>();
    for (Rewritten.Storage storage : planned.storages()) {
      long offset = planned.layout().payloadOffset(storage.key());
      int entry = Addresses.NO_ENTRY;
      if (storage.bytes() > 0) {
        entry = entries.size();
        entries.add(new TargetFile.Entry(storage.key(), offset, storage.bytes()));
      }
      begins.add(new Address(targets.size(), entry, offset));
    }
    targets.add(new TargetFile(path, planned.layout().totalBytes(), recipe, entries));
    for (int s = 0; s < begins.size(); s++) {
      Rewritten.Storage storage = planned.storages().get(s);
      if (storage.content() instanceof Rewritten.Content.Carried whole) {
        carry(ofKey(template, whole.sourceKey()), begins.get(s), storage.bytes());
      } else if (storage.content() instanceof Rewritten.Content.Copied copied
          && storage.bytes() > 0) {
        carried.add(
            SliceCopy.of(
                ofKey(template, copied.sourceKey()).plus(copied.from()),
                begins.get(s),
                storage.bytes(),
                false));
      }
    }
    return new Written(targets.size() - 1, begins);
  }

  /**
   * Plans the file of a target rank, which has its partitions.
   *
   * @param rank the rank in the model's layout
   * @param model whose partitions the file has
   */
  public void addRankFile(
      String path,
      TorchRecipe recipe,
      TorchTarget.Pickled content,
      ReadFile template,
      int rank,
      int model) {
    Written written = addFile(path, recipe, content, template);
    for (int s = 0; s < content.storages().size(); s++) {
      if (content.storages().get(s).content() instanceof Rewritten.Content.PartitionOf piece) {
        place(model, new Partition(rank, piece.group(), piece.state()), written.storages().get(s));
      }
    }
  }

  private Address ofKey(ReadFile template, String key) {
    SourceFile source = state.sources().get(template.source());
    return Addresses.ofKey(source, template.source(), template.file(), key);
  }

  /** Copies bytes that are not partitioned; the first copy of a storage proves it. */
  private void carry(Address source, Address to, long bytes) {
    if (bytes > 0) {
      boolean proves =
          source.entry() != Addresses.NO_ENTRY
              && proven.add(((long) source.file() << 32) | source.entry());
      carried.add(SliceCopy.of(source, to, bytes, proves));
    }
  }

  /** The plan. */
  public ReshardPlan plan() {
    return plan(target.worldSize(), state.evidence());
  }

  /**
   * The plan of files that are the same for any number of ranks, or prove less.
   *
   * @param targetWorldSize data-parallel ranks, or {@link ReshardPlan#ANY_WORLD_SIZE}
   */
  public ReshardPlan plan(int targetWorldSize, List<Evidence> evidence) {
    return new ReshardPlan(
        state.checkpoint(),
        tag,
        state.dataParallelRanks(),
        targetWorldSize,
        parallelism,
        state.sources(),
        targets,
        models,
        carried,
        padding,
        evidence,
        notes,
        target.partBytes());
  }
}
