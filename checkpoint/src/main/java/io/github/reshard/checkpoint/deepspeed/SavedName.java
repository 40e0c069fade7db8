package io.github.reshard.checkpoint.deepspeed;

import java.util.List;
import java.util.Optional;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/**
 * What a file of a checkpoint is, as its name says it.
 *
 * @param kind which files it is one of
 * @param numbers the data-parallel rank; of a layer's file the layer; of an expert's the layer and
 *     the expert
 * @param mpRank the model-parallel rank; of a layer's file the tensor-parallel rank
 * @param writtenAs the name as DeepSpeed writes these numbers
 */
record SavedName(Kind kind, List<Integer> numbers, int mpRank, String writtenAs) {
  private static final Pattern EXPERT =
      Pattern.compile("layer_(\\d{1,9})_expert_(\\d{1,9})_mp_rank_(\\d{1,9})_model_states\\.pt");
  private static final Pattern EXPERT_OPTIMIZER =
      Pattern.compile("expp_rank_(\\d{1,9})_mp_rank_(\\d{1,9})_optim_states\\.pt");
  private static final int MOST_DIGITS = 9;

  /** The kinds of files that {@link CheckpointFiles} tells apart. */
  enum Kind {
    MODEL("the model file"),
    RANK_MODEL("the model file of rank %d"),
    OPTIMIZER("the optimizer file of rank %d"),
    LAYER("the file of layer %d"),
    EXPERT("the file of expert %2$d of layer %1$d"),
    EXPERT_OPTIMIZER("the expert optimizer file of rank %d");

    private final String text;

    Kind(String text) {
      this.text = text;
    }
  }

  /** Reads the name of a file; empty if DeepSpeed gives no file that it partitions such a name. */
  static Optional<SavedName> of(String fileName) {
    Matcher m;
    if ((m = CheckpointFiles.MODEL.matcher(fileName)).matches() && isShort(m)) {
      return Optional.of(
          named(Kind.MODEL, List.of(), number(m, 1), "mp_rank_%02d_model_states.pt"));
    }
    if ((m = CheckpointFiles.RANK_MODEL.matcher(fileName)).matches() && isShort(m)) {
      return Optional.of(
          named(
              Kind.RANK_MODEL,
              List.of(number(m, 1)),
              number(m, 2),
              "zero_pp_rank_" + number(m, 1) + "_mp_rank_%02d_model_states.pt"));
    }
    if ((m = CheckpointFiles.OPTIMIZER.matcher(fileName)).matches() && isShort(m)) {
      String before = fileName.substring(0, m.start(1));
      String after = fileName.substring(m.end(2));
      return Optional.of(
          named(
              Kind.OPTIMIZER,
              List.of(number(m, 1)),
              number(m, 2),
              before + number(m, 1) + "_mp_rank_%02d" + after));
    }
    if ((m = CheckpointFiles.LAYER.matcher(fileName)).matches() && isShort(m)) {
      boolean tensorParallel = m.group(2) != null;
      return Optional.of(
          named(
              Kind.LAYER,
              List.of(number(m, 1)),
              tensorParallel ? number(m, 2) : 0,
              "layer_%02d".formatted(number(m, 1))
                  + (tensorParallel ? "-model_%02d" : "")
                  + "-model_states.pt"));
    }
    if ((m = EXPERT.matcher(fileName)).matches()) {
      return Optional.of(
          named(
              Kind.EXPERT,
              List.of(number(m, 1), number(m, 2)),
              number(m, 3),
              "layer_%d_expert_%d".formatted(number(m, 1), number(m, 2))
                  + "_mp_rank_%02d_model_states.pt"));
    }
    if ((m = EXPERT_OPTIMIZER.matcher(fileName)).matches()) {
      return Optional.of(
          named(
              Kind.EXPERT_OPTIMIZER,
              List.of(number(m, 1)),
              number(m, 2),
              "expp_rank_" + number(m, 1) + "_mp_rank_%02d_optim_states.pt"));
    }
    return Optional.empty();
  }

  /**
   * What the archive in a torch file says it was saved as. PyTorch calls it after the file, without
   * what follows the last dot (caffe2/serialize/inline_container.cc, {@code basename}; so since
   * PyTorch 1.6). A file that got its name only when it was whole, {@code NAME.pt.tmp}, is called
   * {@code NAME.pt} there.
   */
  static Optional<SavedName> ofArchive(String archive) {
    return of(archive + ".pt").or(() -> of(archive));
  }

  private static SavedName named(Kind kind, List<Integer> numbers, int mpRank, String format) {
    return new SavedName(kind, numbers, mpRank, format.formatted(mpRank));
  }

  private static int number(Matcher m, int group) {
    return Integer.parseInt(m.group(group));
  }

  private static boolean isShort(Matcher m) {
    for (int g = 1; g <= m.groupCount(); g++) {
      if (m.group(g) != null && m.group(g).length() > MOST_DIGITS) {
        return false;
      }
    }
    return true;
  }

  /** Whether both are the same but for the model-parallel rank. */
  boolean isOfRankOf(SavedName other) {
    return kind == other.kind && numbers.equals(other.numbers);
  }

  /** For a message, such as "the optimizer file of rank 3, mp rank 0". */
  String text() {
    return kind.text.formatted(numbers.toArray())
        + (kind == Kind.LAYER ? ", tensor-parallel rank " : ", mp rank ")
        + mpRank;
  }
}
