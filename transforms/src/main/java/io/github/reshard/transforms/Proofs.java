package io.github.reshard.transforms;

import io.github.reshard.checkpoint.plan.Evidence;
import io.github.reshard.checkpoint.plan.Repartition;
import io.github.reshard.checkpoint.plan.ReshardPlan;
import io.github.reshard.checkpoint.plan.SourceFile;
import io.github.reshard.checkpoint.state.Parameter;
import io.github.reshard.checkpoint.state.PartitionedModel;
import io.github.reshard.checkpoint.state.PartitionedModel.ModuleWeight;
import io.github.reshard.checkpoint.state.States;
import io.github.reshard.checkpoint.torch.DType;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;

/**
 * What a job that ran to its end has proven, and what it could not.
 *
 * @param parameters parameters that were covered, over all model-parallel ranks
 * @param elements their elements
 * @param entries entries whose bytes had the CRC-32 that was saved
 * @param filesWithoutCrcs names of torch files that were saved without CRCs
 * @param filesWithoutEntries paths of files that are no torch files and have no checksum to check
 * @param weights parameters whose masters were compared with the module's weights
 * @param withoutWeights parameters that no model file has the weights of
 * @param copies copies of states that ranks share, beside the first of each
 * @param evidence what the source's metadata proves
 */
public record Proofs(
    long parameters,
    long elements,
    long entries,
    List<String> filesWithoutCrcs,
    List<String> filesWithoutEntries,
    long weights,
    List<String> withoutWeights,
    long copies,
    List<Evidence> evidence) {
  private static final int MOST_NAMED = 8;

  /** What a job for {@code plan} proves if it does not throw. */
  public static Proofs of(ReshardPlan plan) {
    long parameters = 0;
    long elements = 0;
    long weights = 0;
    long copies = 0;
    List<String> withoutWeights = new ArrayList<>();
    for (PartitionedModel model : plan.models()) {
      parameters += model.parameters().size();
      elements += model.parameters().stream().mapToLong(Parameter::elements).sum();
      for (int p = 0; p < model.parameters().size(); p++) {
        for (List<Integer> holders : Repartition.holders(model, p).values()) {
          copies += Math.max(0, holders.size() - 1);
        }
        ModuleWeight weight = model.weights().get(p);
        Map<String, DType> states = model.statesOf(p);
        if (!states.containsKey(States.MASTER) && !states.containsKey(States.FROZEN)) {
          continue; // the module's own
        }
        if (weight == null || weight.isDerived()) {
          withoutWeights.add(model.id(plan.checkpoint(), p).toString());
        } else {
          weights++;
        }
      }
    }
    long entries =
        plan.sources().stream()
            .filter(SourceFile::hasCrcs)
            .flatMap(file -> file.entries().stream())
            .filter(entry -> entry.bytes() > 0)
            .count();
    return new Proofs(
        parameters,
        elements,
        entries,
        plan.sources().stream()
            .filter(file -> !file.entries().isEmpty() && !file.hasCrcs())
            .map(file -> file.stat().name())
            .toList(),
        plan.sources().stream()
            .filter(file -> file.entries().isEmpty() && !file.hasCrcs())
            .map(file -> file.stat().name())
            .toList(),
        weights,
        withoutWeights,
        copies,
        plan.evidence());
  }

  /**
   * What was proven, a sentence each.
   *
   * @param disagreed parameters whose masters were trusted against the module's weights
   */
  public List<String> proven(long disagreed) {
    List<String> sentences = new ArrayList<>();
    if (parameters > 0) {
      sentences.add("every element of %d parameters is there once".formatted(parameters));
    }
    if (entries > 0) {
      sentences.add("the bytes of %d entries have the CRC-32 that was saved".formatted(entries));
    }
    if (copies > 0) {
      sentences.add(
          "%d copies of optimizer state that ranks share are equal to the first, bit for bit"
              .formatted(copies));
    }
    if (weights - disagreed > 0) {
      sentences.add(
          "the master weights of %d parameters, cast to the module's type, are its weights bit for bit"
              .formatted(weights - disagreed));
    }
    for (Evidence found : evidence) {
      if (found.files() > 0) {
        sentences.add(
            "%s: %s of %s"
                .formatted(
                    found.claim(),
                    found.by(),
                    found.files() == 1 ? "1 file" : found.files() + " files"));
      }
    }
    return sentences;
  }

  /** What could not be proven, a sentence each. */
  public List<String> notProven(long disagreed) {
    List<String> sentences = new ArrayList<>();
    if (!filesWithoutCrcs.isEmpty()) {
      sentences.add(
          "saved without CRCs, so what was read could not be proven: "
              + String.join(", ", filesWithoutCrcs));
    }
    for (Evidence found : evidence) {
      if (!found.without().isEmpty()) {
        List<String> files = found.without();
        String more =
            files.size() > MOST_NAMED ? " and %d more".formatted(files.size() - MOST_NAMED) : "";
        sentences.add(
            "not proven that %s: %s; concerns %s%s"
                .formatted(
                    found.claim(),
                    found.whyNot(),
                    String.join(", ", files.subList(0, Math.min(MOST_NAMED, files.size()))),
                    more));
      }
    }
    if (disagreed > 0) {
      sentences.add(
          "the master weights of %d parameters do not give the module's weights, and were trusted as --trustMasters asks"
              .formatted(disagreed));
    }
    return sentences;
  }
}
