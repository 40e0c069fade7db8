package io.github.reshard.checkpoint.parallel;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.state.Box;
import io.github.reshard.checkpoint.state.LocalTensor;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.Optional;
import java.util.OptionalInt;

/**
 * A change of the number of tensor-parallel ranks: how each parameter is put together and cut
 * again. What the rules say has to give the source's own cuts; nothing is guessed.
 *
 * @param where the checkpoint, for messages
 * @param rules how parameters are cut
 * @param division into which widths
 * @param ranks how many tensor-parallel ranks there will be
 * @param vocabularyMultiple {@code make_vocab_size_divisible_by} of Megatron, if it is known
 * @param strips whether rows behind the end of a vocabulary go nowhere
 */
public record TensorDegree(
    String where,
    TensorRules rules,
    Division division,
    int ranks,
    OptionalInt vocabularyMultiple,
    boolean strips) {

  /** A change to ranks of a run, whose vocabulary is padded as the run pads it. */
  public TensorDegree(
      String where,
      TensorRules rules,
      Division division,
      int ranks,
      OptionalInt vocabularyMultiple) {
    this(where, rules, division, ranks, vocabularyMultiple, false);
  }

  /** Puts parameters together for files that know no ranks, and no rows behind a vocabulary. */
  public static TensorDegree joining(String where, TensorRules rules, Division division) {
    return new TensorDegree(where, rules, division, 1, OptionalInt.empty(), true);
  }

  /**
   * A parameter at both numbers of ranks.
   *
   * @param parameter its name
   * @param saved the shape of each source rank's local tensor
   * @throws RefusedException if no rule covers it, or its rule does not give what was saved, or
   *     cannot be told at the target
   */
  public Recut recut(String parameter, List<List<Long>> saved) {
    int dimensions = saved.get(0).size();
    if (saved.stream().anyMatch(shape -> shape.size() != dimensions)) {
      throw refused(parameter, "its ranks have tensors of different dimensions: " + saved);
    }
    if (saved.size() == 1 && ranks == 1 && !(strips && rules.isOfVocabulary(parameter))) {
      List<LocalTensor> whole = List.of(LocalTensor.whole(saved.get(0)));
      return new Recut(saved.get(0), whole, whole, Recut.Sharing.CUT);
    }
    Optional<AffineMap> exact = rules.affine(parameter, saved.size());
    exact.ifPresent(map -> requireShapes(parameter, map, saved));
    Optional<CutRule> rule = rules.rule(parameter);
    if (rule.isEmpty() && exact.isEmpty()) {
      throw refused(
          parameter,
          "its ranks have shapes %s, and no rule of %s names it. Add a pattern for it to %s, %s, %s or %s"
              .formatted(
                  saved,
                  rules.where(),
                  TensorRules.REPLICATED,
                  TensorRules.COLUMNS,
                  TensorRules.ROWS,
                  TensorRules.FUSED));
    }
    try {
      return rule.isEmpty()
          ? ofMap(exact.get(), Optional.empty())
          : joined(parameter, saved, rule.get(), exact);
    } catch (Unfit e) {
      throw refused(parameter, e.getMessage());
    }
  }

  private static void requireShapes(String parameter, AffineMap map, List<List<Long>> saved) {
    List<List<Long>> mapped = map.locals().stream().map(LocalTensor::shape).toList();
    if (!mapped.equals(saved)) {
      throw new RefusedException(
          parameter, "affine_map says shapes %s, param_shapes %s.".formatted(mapped, saved));
    }
  }

  private Recut joined(
      String parameter, List<List<Long>> saved, CutRule rule, Optional<AffineMap> exact)
      throws Unfit {
    Recut recut;
    try {
      recut = ofRule(parameter, saved, rule);
    } catch (Unfit e) {
      if (exact.isPresent() && ranks == 1) {
        return ofMap(exact.get(), Optional.empty());
      }
      throw e;
    }
    return exact.isPresent() ? ofMap(exact.get(), Optional.of(recut)) : recut;
  }

  /** The map is right about the source; it says nothing of another number of ranks but one. */
  private Recut ofMap(AffineMap map, Optional<Recut> ofRule) throws Unfit {
    boolean same =
        ofRule.isPresent()
            && ofRule.get().shape().equals(map.shape())
            && ofRule.get().source().equals(map.locals());
    if (same) {
      return ofRule.get();
    }
    if (ranks > 1) {
      throw new Unfit(
          "affine_map says exactly how it was cut, and no pattern gives the same, so it cannot be"
              + " told how it is cut among other ranks. It can be joined, with"
              + " --targetTensorParallelSize=1");
    }
    LocalTensor whole = LocalTensor.whole(map.shape());
    boolean replicated = map.locals().stream().allMatch(whole::equals);
    List<Box> boxes =
        map.locals().stream()
            .flatMap(local -> local.blocks().stream().map(LocalTensor.Block::full))
            .toList();
    if (!replicated && !Box.tile(map.shape(), boxes)) {
      throw new Unfit(
          "by affine_map some of its ranks share a part of it, which is not supported. The"
              + " tensor-parallel size has to stay as saved");
    }
    return new Recut(
        map.shape(),
        map.locals(),
        List.of(whole),
        replicated && map.locals().size() > 1 ? Recut.Sharing.REPLICATED : Recut.Sharing.CUT);
  }

  private Recut ofRule(String parameter, List<List<Long>> saved, CutRule rule) throws Unfit {
    if (rule instanceof CutRule.Split split) {
      return split(parameter, saved, split.dimension(), split.fused());
    }
    if (rule instanceof CutRule.Vocabulary vocabulary) {
      return vocabulary(parameter, saved, vocabulary);
    }
    List<Long> shape = saved.get(0);
    if (saved.stream().anyMatch(other -> !other.equals(shape))) {
      throw new Unfit(
          "a pattern says that all ranks have all of it, and they have shapes " + saved);
    }
    LocalTensor whole = LocalTensor.whole(shape);
    return new Recut(
        shape,
        Collections.nCopies(saved.size(), whole),
        Collections.nCopies(ranks, whole),
        rule instanceof CutRule.Averaged ? Recut.Sharing.AVERAGED : Recut.Sharing.REPLICATED);
  }

  private Recut split(String parameter, List<List<Long>> saved, int dimension, Fused fused)
      throws Unfit {
    TensorCut source = new TensorCut(dimension, fused.partsOf(widths(saved, dimension)));
    List<List<Long>> target = new ArrayList<>();
    for (List<Long> matrix : source.widths()) {
      long size = matrix.stream().mapToLong(Long::longValue).sum();
      target.add(ranks == 1 ? List.of(size) : division.at(parameter, size, ranks, matrix));
    }
    List<Long> shape = with(saved.get(0), dimension, source.size());
    TensorCut cut = new TensorCut(dimension, target);
    return new Recut(shape, source.of(shape), cut.of(shape), Recut.Sharing.CUT, Optional.of(cut));
  }

  /** How wide each rank's tensor is along the dimension that is cut; the others must be alike. */
  private static List<Long> widths(List<List<Long>> saved, int dimension) throws Unfit {
    List<Long> widths = new ArrayList<>();
    for (List<Long> shape : saved) {
      if (dimension >= shape.size()) {
        throw new Unfit(
            "a pattern says that it is cut along dimension %d, and its shape is %s"
                .formatted(dimension, shape));
      }
      if (!with(shape, dimension, 0L).equals(with(saved.get(0), dimension, 0L))) {
        throw new Unfit(
            "it is cut along dimension %d, and its ranks have shapes %s, which differ in another"
                .formatted(dimension, saved));
      }
      widths.add(shape.get(dimension));
    }
    return widths;
  }

  private static List<Long> with(List<Long> of, int dimension, long value) {
    List<Long> changed = new ArrayList<>(of);
    changed.set(dimension, value);
    return changed;
  }

  private Recut vocabulary(String parameter, List<List<Long>> saved, CutRule.Vocabulary vocabulary)
      throws Unfit {
    List<Long> widths = widths(saved, 0);
    long all = widths.stream().mapToLong(Long::longValue).sum();
    if (vocabulary.rows().isEmpty() && division instanceof Division.Even) {
      throw new Unfit(
          "it is a vocabulary, behind whose end there may be rows, and %s does not say %s"
              .formatted(rules.where(), TensorRules.VOCABULARY_ROWS));
    }
    long rows = vocabulary.rows().orElse(all);
    if (rows > all) {
      throw new Unfit(
          "%s is %d, and all ranks together have %d rows"
              .formatted(TensorRules.VOCABULARY_ROWS, rows, all));
    }
    if (division instanceof Division.AutoTp && all == rows) {
      return split(parameter, saved, 0, Fused.ONE);
    }
    if (widths.stream().distinct().count() > 1) {
      throw new Unfit(
          "it has %d rows and its vocabulary %d, and the ranks have unequally many: %s"
              .formatted(all, rows, widths));
    }
    long padded =
        strips ? rows : VocabularyPadding.at(rows, all, saved.size(), ranks, vocabularyMultiple);
    List<Long> shape = with(saved.get(0), 0, rows);
    return new Recut(
        shape,
        VocabularyPadding.locals(shape, all, saved.size()),
        VocabularyPadding.locals(shape, padded, ranks),
        Recut.Sharing.CUT);
  }

  private RefusedException refused(String parameter, String problem) {
    return new RefusedException(where + ", parameter " + parameter, problem + ".");
  }
}
