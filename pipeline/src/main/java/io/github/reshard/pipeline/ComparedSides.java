package io.github.reshard.pipeline;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.deepspeed.CheckpointFacts;
import io.github.reshard.checkpoint.state.ModelParallelism;
import io.github.reshard.checkpoint.template.Comparison;
import io.github.reshard.pipeline.storage.Stores;
import java.io.IOException;
import java.util.ArrayList;
import java.util.List;
import java.util.Optional;

/**
 * The two checkpoints that {@code verify} holds against each other.
 *
 * @param a {@code --input}
 * @param b {@code --output}
 * @param differences what is known to differ before tensors are compared
 * @param notes what could not be compared
 */
record ComparedSides(ComparedSide a, ComparedSide b, List<String> differences, List<String> notes) {
  /**
   * {@code --input} and {@code --output}.
   *
   * @throws RefusedException if one is no sound checkpoint, or they cannot be compared
   */
  static ComparedSides of(CommandOptions options) throws IOException {
    Optional<Source> foreignA = Source.foreign(options.getInput(), options.getTag(), options);
    Optional<Source> foreignB =
        Source.foreign(options.getOutput(), options.getOutputTag(), options);
    if (foreignA.isPresent() && foreignB.isPresent()) {
      return ofForeign(foreignA.get(), foreignB.get());
    }
    if ((foreignA.isPresent() || foreignB.isPresent())
        && Stores.isLocal(options.getInput()) != Stores.isLocal(options.getOutput())) {
      Source foreign = foreignA.or(() -> foreignB).orElseThrow();
      throw new RefusedException(
          options.getInput(),
          "one is local and the other one is not, and %s is read with the store of the other side. Copy one of the two."
              .formatted(what(foreign)));
    }
    if (foreignA.isPresent()) {
      ComparedSide b =
          ComparedSide.of(
              Source.find(options.getOutput(), options.getOutputTag(), options), options);
      return besides(foreignA.get(), b, true);
    }
    if (foreignB.isPresent()) {
      ComparedSide a =
          ComparedSide.of(Source.find(options.getInput(), options.getTag(), options), options);
      return besides(foreignB.get(), a, false);
    }
    Source first = Source.find(options.getInput(), options.getTag(), options);
    Source second = Source.find(options.getOutput(), options.getOutputTag(), options);
    Source.requireShards(options, first, second);
    ComparedSide input = ComparedSide.of(first, options);
    ComparedSide output = ComparedSide.of(second, options);
    ModelParallelism one = input.facts().parallelism();
    ModelParallelism other = output.facts().parallelism();
    List<String> notes = new ArrayList<>();
    if (one.modelRanks() != other.modelRanks()
        || one.pipelineDegree() != other.pipelineDegree()
        || one.tensorDegree() != other.tensorDegree()) {
      input = input.joined(options);
      output = output.joined(options);
      notes.add(
          "the two are of different grids, %s and %s: parameters were joined of their ranks; buffers in the files of layers were not compared"
              .formatted(
                  one.grid(first.dataParallelRanks()), other.grid(second.dataParallelRanks())));
    }
    return new ComparedSides(input.besides(output), output.besides(input), List.of(), notes);
  }

  private static String what(Source foreign) {
    return foreign.found().foreign().orElseThrow().what();
  }

  /**
   * A checkpoint of another trainer and one of DeepSpeed, whose shared values are compared here.
   */
  private static ComparedSides besides(Source foreign, ComparedSide zero, boolean first)
      throws IOException {
    if (zero.source().isBare()) {
      throw new RefusedException(
          zero.source().location(),
          "shards that were saved one by one are not compared with %s.".formatted(what(foreign)));
    }
    Comparison compared =
        foreign
            .found()
            .foreign()
            .orElseThrow()
            .compare(zero.state(), zero.plan(), zero.source().files());
    ComparedSide other = new ComparedSide(foreign, zero.facts(), zero.state(), compared.plan());
    ComparedSide joined =
        new ComparedSide(zero.source(), zero.facts(), zero.state(), compared.other());
    return first
        ? new ComparedSides(other, joined, compared.differences(), compared.notes())
        : new ComparedSides(joined, other, compared.differences(), compared.notes());
  }

  private static ComparedSides ofForeign(Source a, Source b) throws IOException {
    Comparison compared =
        a.found().foreign().orElseThrow().compare(b.found().foreign().orElseThrow());
    return new ComparedSides(
        new ComparedSide(a, CheckpointFacts.NONE, null, compared.plan()),
        new ComparedSide(b, CheckpointFacts.NONE, null, compared.other()),
        compared.differences(),
        compared.notes());
  }
}
