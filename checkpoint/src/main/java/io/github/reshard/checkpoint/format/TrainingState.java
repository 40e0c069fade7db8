package io.github.reshard.checkpoint.format;

import io.github.reshard.checkpoint.plan.Evidence;
import io.github.reshard.checkpoint.plan.SourceFile;
import io.github.reshard.checkpoint.state.DegreeChange;
import io.github.reshard.checkpoint.state.ModelParallelism;
import io.github.reshard.checkpoint.state.ParameterSet;
import io.github.reshard.checkpoint.storage.SourceStore;
import java.util.List;
import java.util.stream.Stream;

/**
 * A checkpoint as it was read, of whatever format: what lies between a {@link CheckpointReader} and
 * a {@link CheckpointWriter}. It holds metadata only; elements stay in the files that it names.
 *
 * <p>A change of degrees is a function from one of these to another: parameters that several
 * model-parallel ranks had are joined in a {@link ParameterSet} with their full shapes, whose
 * shares are those of the target, and there is a {@link ModelPart} without {@link ModelPart.Origin}
 * for each model-parallel rank of the target.
 *
 * @param store reads its files
 * @param checkpoint where it is, for messages; names its parameters in a {@link
 *     io.github.reshard.checkpoint.state.ParamId}
 * @param tag what it is called; empty if its files lie in no directory of their own
 * @param dataParallelRanks how many saved it
 * @param parallelism how GPUs share the model, as saved and as these parts do
 * @param sources every file that was read, or goes along
 * @param parts the model-parallel ranks, by their number
 * @param parameters the sets of parameters that the parts name
 * @param carried files that go along as they are
 * @param evidence what was proven by metadata
 * @param notes what the user should know
 * @param forAnySize whether it is the same for all numbers of ranks that it may be read for
 */
public record TrainingState(
    SourceStore store,
    String checkpoint,
    String tag,
    int dataParallelRanks,
    DegreeChange parallelism,
    List<SourceFile> sources,
    List<ModelPart> parts,
    List<ParameterSet> parameters,
    List<CarriedFile> carried,
    List<Evidence> evidence,
    List<String> notes,
    boolean forAnySize) {
  public TrainingState {
    sources = List.copyOf(sources);
    parts = List.copyOf(parts);
    parameters = parameters.stream().map(ParameterSet::read).toList();
    carried = List.copyOf(carried);
    evidence = List.copyOf(evidence);
    notes = List.copyOf(notes);
  }

  /** The same pieces for other model-parallel ranks. */
  public TrainingState with(
      ModelParallelism other, List<ModelPart> otherParts, List<ParameterSet> otherParameters) {
    return new TrainingState(
        store,
        checkpoint,
        tag,
        dataParallelRanks,
        parallelism.with(other),
        sources,
        otherParts,
        otherParameters,
        carried,
        evidence,
        notes,
        forAnySize);
  }

  /**
   * The same under another name, and without what its files do not prove: they were put together of
   * files that other names prove nothing of.
   *
   * @param further what else the user should know
   */
  public TrainingState composed(String name, List<String> further) {
    return new TrainingState(
        store,
        checkpoint,
        name,
        dataParallelRanks,
        parallelism,
        sources,
        parts,
        parameters,
        carried,
        evidence.stream().filter(one -> !one.isOfIdentity()).toList(),
        Stream.concat(notes.stream(), further.stream()).toList(),
        forAnySize);
  }

  /** The one set of trained parameters of {@code part}. */
  public ParameterSet trained(ModelPart part) {
    return parameters.get(part.trained().get(0));
  }
}
