package io.github.reshard.checkpoint.parallel;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.pickle.PyDict;
import io.github.reshard.checkpoint.pickle.PyInstance;
import io.github.reshard.checkpoint.torch.PickledValue;
import java.util.ArrayList;
import java.util.List;
import java.util.Optional;
import java.util.OptionalLong;

/**
 * How the parameters of a model are cut, by patterns of their names: {@code
 * universal_checkpoint_info}, which AutoTP writes itself and Megatron-DeepSpeed puts into the
 * client state (DeepSpeed 0.19.8, checkpoint/ds_to_universal.py, {@code merge_tp_slices}), or a
 * file of the user's with the same keys.
 */
public final class TensorRules {
  static final String REPLICATED = "tp_replicated_parameter_patterns";
  static final String AVERAGED = "parameter_to_average_patterns";
  static final String ROWS = "parameter_with_row_parallelism_patterns";
  static final String PAIRS = "parameter_with_2_sub_params_cat_dim_0";
  static final String VOCABULARY = "vocabulary_parameter_patterns";
  static final String VOCABULARY_ROWS = "original_vocab_size";
  static final String FUSED = "parameter_with_sub_params";
  static final String FUSED_WIDTHS = "sub_param_shard_widths";
  static final String UNSUPPORTED = "autotp_unsupported_parameter_patterns";
  static final String AFFINE = "affine_map";

  /** Only in a file of the user's, which has to name every parameter. */
  static final String COLUMNS = "parameter_with_column_parallelism_patterns";

  private final PickledValue info;
  private final boolean coversAll;
  private final List<Named> rules = new ArrayList<>();
  private final List<NamePatterns.NamePattern> unsupported = new ArrayList<>();
  private final NamePatterns vocabulary;
  private final List<Mapped> affine = new ArrayList<>();

  /**
   * @param said the whole entry of the rule, where it is more than a pattern
   */
  private record Named(
      String key, NamePatterns.NamePattern pattern, CutRule rule, Optional<PickledValue> said) {}

  private record Mapped(NamePatterns.NamePattern pattern, PickledValue map) {}

  /**
   * @param info the dict
   * @param coversAll whether a parameter that no pattern names is unknown; else its ranks' parts
   *     lie one below the other, as DeepSpeed's converter takes it
   */
  private TensorRules(PickledValue info, boolean coversAll) {
    this.info = info;
    this.coversAll = coversAll;
    this.vocabulary = NamePatterns.of(info, VOCABULARY);
    add(REPLICATED, new CutRule.Replicated());
    add(AVERAGED, new CutRule.Averaged());
    add(ROWS, new CutRule.Split(1, Fused.ONE));
    add(COLUMNS, new CutRule.Split(0, Fused.ONE));
    add(PAIRS, new CutRule.Split(0, Fused.alike(2)));
    info.findPresent(FUSED).ifPresent(this::addFused);
    info.findPresent(UNSUPPORTED).stream()
        .flatMap(all -> all.children().stream())
        .forEach(entry -> unsupported.add(NamePatterns.compile(entry.value(), entry.key())));
    info.findPresent(AFFINE).ifPresent(this::addAffine);
  }

  /** What a checkpoint says. */
  public static TensorRules ofCheckpoint(PickledValue info) {
    return new TensorRules(info, false);
  }

  /** What a file of rules says. */
  public static TensorRules ofFile(PickledValue rules) {
    return new TensorRules(rules, true);
  }

  private void add(String key, CutRule rule) {
    for (NamePatterns.NamePattern pattern : NamePatterns.of(info, key).listed()) {
      rules.add(new Named(key, pattern, rule, Optional.empty()));
    }
  }

  /** {@code SubparamShape}: a dict in native files, the dataclass in Universal Checkpoints. */
  private void addFused(PickledValue list) {
    for (PickledValue shape : list.items()) {
      PickledValue fields =
          shape.node() instanceof PyInstance instance && instance.state() instanceof PyDict state
              ? new PickledValue(shape.file(), shape.path(), state)
              : shape;
      int dimension = fields.get("partition_dim").asInt();
      List<PickledValue> sizes = fields.get("shape").items();
      if (dimension < 0 || dimension >= sizes.size()) {
        throw fields
            .get("partition_dim")
            .refused("expected one of the %d dimensions".formatted(sizes.size()));
      }
      for (NamePatterns.NamePattern pattern : NamePatterns.of(fields.get("patterns")).listed()) {
        rules.add(new Named(FUSED, pattern, fused(dimension, sizes, pattern), Optional.of(fields)));
      }
    }
  }

  private CutRule fused(int dimension, List<PickledValue> shape, NamePatterns.NamePattern pattern) {
    PickledValue cut = shape.get(dimension);
    List<Long> sizes =
        cut.isList() ? cut.items().stream().map(PickledValue::asLong).toList() : List.of();
    int matrices = cut.isList() ? sizes.size() : cut.asInt();
    if (matrices < 1) {
      throw cut.refused("expected how many matrices are fused, or their widths");
    }
    List<List<Long>> widths =
        info.findPresent(FUSED_WIDTHS).flatMap(all -> all.findPresent(pattern.text())).stream()
            .flatMap(all -> all.items().stream())
            .map(of -> of.items().stream().map(PickledValue::asLong).toList())
            .toList();
    return new CutRule.Split(dimension, new Fused(matrices, sizes, widths));
  }

  private void addAffine(PickledValue map) {
    int version = map.findPresent("version").map(PickledValue::asInt).orElse(AffineMap.VERSION);
    if (version > AffineMap.VERSION) {
      throw map.refused(
          "its version is %d, and up to %d is understood.".formatted(version, AffineMap.VERSION));
    }
    map.findPresent("params").stream()
        .flatMap(all -> all.children().stream())
        .forEach(
            entry ->
                affine.add(
                    new Mapped(NamePatterns.compile(entry.value(), entry.key()), entry.value())));
  }

  /**
   * The exact place of each rank's part, if the checkpoint has it.
   *
   * @param ranks how many tensor-parallel ranks saved it
   * @throws RefusedException if it cannot be told, or is not understood
   */
  Optional<AffineMap> affine(String parameter, int ranks) {
    List<Mapped> matching =
        affine.stream().filter(mapped -> mapped.pattern().matches(parameter)).toList();
    if (matching.size() > 1) {
      throw several(parameter, matching.stream().map(m -> m.pattern().text()).toList());
    }
    return matching.stream().map(mapped -> AffineMap.of(mapped.map(), ranks)).findFirst();
  }

  /**
   * The rule of a parameter; none if nothing is said and it may be anything.
   *
   * @throws RefusedException if several rules name it, or it is one that cannot be joined
   */
  Optional<CutRule> rule(String parameter) {
    for (NamePatterns.NamePattern pattern : unsupported) {
      if (pattern.matches(parameter)) {
        throw new RefusedException(
            pattern.from().where(),
            "%s cannot be joined, says DeepSpeed: %s. The tensor-parallel size has to stay as saved."
                .formatted(parameter, pattern.from().isText() ? pattern.from().asString() : "?"));
      }
    }
    List<Named> matching =
        rules.stream().filter(named -> named.pattern().matches(parameter)).toList();
    Optional<NamePatterns.NamePattern> ofVocabulary = vocabulary.match(parameter);
    if (matching.size() > 1) {
      throw several(
          parameter, matching.stream().map(n -> n.key() + " " + n.pattern().text()).toList());
    }
    if (ofVocabulary.isPresent()) {
      if (matching.stream().anyMatch(named -> !named.key().equals(COLUMNS))) {
        throw several(
            parameter,
            List.of(
                VOCABULARY + " " + ofVocabulary.get().text(),
                matching.get(0).key() + " " + matching.get(0).pattern().text()));
      }
      return Optional.of(
          new CutRule.Vocabulary(
              info.findPresent(VOCABULARY_ROWS)
                  .map(rows -> OptionalLong.of(rows.asLong()))
                  .orElse(OptionalLong.empty())));
    }
    Optional<CutRule> found = matching.stream().map(Named::rule).findFirst();
    return found.isPresent() || coversAll ? found : Optional.of(new CutRule.Split(0, Fused.ONE));
  }

  private RefusedException several(String parameter, List<String> patterns) {
    return new RefusedException(
        info.where(), "%s is named by several patterns: %s.".formatted(parameter, patterns));
  }

  /** Whether the parameter is a vocabulary of which it is said how many rows it has. */
  public boolean isOfVocabulary(String parameter) {
    return rule(parameter)
        .filter(rule -> rule instanceof CutRule.Vocabulary of && of.rows().isPresent())
        .isPresent();
  }

  /** What a Universal Checkpoint says of the parameter beside its elements. */
  public UniversalKeys universalKeys(String parameter) {
    Optional<CutRule> rule = rule(parameter);
    if (rule.isEmpty()) {
      return UniversalKeys.ROWS;
    }
    if (rule.get() instanceof CutRule.Vocabulary) {
      return UniversalKeys.ROWS.ofVocabulary(isOfVocabulary(parameter));
    }
    if (!(rule.get() instanceof CutRule.Split split)) {
      return UniversalKeys.WHOLE;
    }
    Optional<PickledValue> fused =
        rules.stream()
            .filter(named -> named.pattern().matches(parameter))
            .flatMap(named -> named.said().stream())
            .findFirst();
    return fused.isPresent()
        ? UniversalKeys.fused(fused.get(), split)
        : UniversalKeys.cut(split.dimension(), split.fused().matrices());
  }

  /** Whether the parameter is named by no pattern, so that its rule is only the usual one. */
  boolean isUnnamed(String parameter) {
    return rules.stream().noneMatch(named -> named.pattern().matches(parameter))
        && vocabulary.match(parameter).isEmpty();
  }

  /** Whether AutoTP wrote it. */
  public boolean isAutoTp() {
    return !coversAll && info.find(UNSUPPORTED).isPresent();
  }

  /** Where it stands, for messages. */
  String where() {
    return info.where();
  }
}
