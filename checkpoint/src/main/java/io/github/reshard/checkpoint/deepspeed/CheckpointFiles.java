package io.github.reshard.checkpoint.deepspeed;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.storage.FileStat;
import io.github.reshard.checkpoint.storage.SourceStore;
import java.io.IOException;
import java.util.ArrayList;
import java.util.List;
import java.util.Optional;
import java.util.OptionalInt;
import java.util.SortedMap;
import java.util.TreeMap;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/**
 * Which files a checkpoint has, sorted by what they are for. Names are those of DeepSpeed 0.19.6,
 * runtime/engine.py ({@code _get_ckpt_name}, {@code _get_zero_ckpt_name}) and
 * runtime/pipe/module.py ({@code ckpt_layer_path}).
 *
 * @param directory what {@code save_checkpoint} was given
 * @param tag the tag; empty for shards that {@code save_checkpoint} did not write
 * @param models {@code mp_rank_MM_model_states.pt} by mp rank
 * @param rankModels {@code zero_pp_rank_D_mp_rank_MM_model_states.pt} (ZeRO-3) by mp rank and
 *     data-parallel rank
 * @param optimizers {@code [bf16_]zero_pp_rank_D_mp_rank_MM_optim_states.pt} by mp rank and
 *     data-parallel rank
 * @param layers {@code layer_LL-model_states.pt} and {@code layer_LL-model_TT-model_states.pt}
 * @param experts files of a mixture of experts
 * @param others files in the tag directory that are none of these
 * @param beside files around the tag directory
 */
public record CheckpointFiles(
    String directory,
    String tag,
    SortedMap<Integer, FileStat> models,
    SortedMap<Integer, SortedMap<Integer, FileStat>> rankModels,
    SortedMap<Integer, SortedMap<Integer, FileStat>> optimizers,
    List<FileStat> layers,
    List<FileStat> experts,
    List<Carried> others,
    List<Carried> beside) {

  /**
   * A file that is carried over as it is.
   *
   * @param path relative to the checkpoint directory, with {@code /}
   * @param stat the file
   */
  public record Carried(String path, FileStat stat) {}

  static final Pattern MODEL = Pattern.compile("mp_rank_(\\d+)_model_states\\.pt");
  static final Pattern RANK_MODEL =
      Pattern.compile("zero_pp_rank_(\\d+)_mp_rank_(\\d+)_model_states\\.pt");
  static final Pattern OPTIMIZER =
      Pattern.compile("(?:bf16_)?zero_pp_rank_(\\d+)_mp_rank_(\\d+)_?optim_states\\.pt");
  static final Pattern LAYER = Pattern.compile("layer_(\\d+)(?:-model_(\\d+))?-model_states\\.pt");
  private static final Pattern EXPERT =
      Pattern.compile(
          "layer_(\\d+)_expert_(\\d+)_mp_rank_(\\d+)_model_states\\.pt|expp_rank_\\d+_mp_rank_\\d+_optim_states\\.pt");

  private static final Pattern RANKS = Pattern.compile("zero_pp_rank_(\\d+)_mp_rank_(\\d+)");

  /** What a reshard leaves in a tag; a new one takes its place. */
  public static final String MANIFEST = "reshard-manifest.json";

  /** A directory in which nothing is DeepSpeed's. */
  public static CheckpointFiles none(String directory) {
    return new CheckpointFiles(
        directory,
        "",
        new TreeMap<>(),
        new TreeMap<>(),
        new TreeMap<>(),
        List.of(),
        List.of(),
        List.of(),
        List.of());
  }

  /**
   * Looks at a checkpoint directory.
   *
   * @param directory what {@code save_checkpoint} was given, or the directory of a tag
   * @param tag the tag, or empty for what {@code latest} says
   * @throws RefusedException if there is no checkpoint, or more than one file claims to be the same
   *     thing
   */
  public static CheckpointFiles discover(SourceStore store, String directory, Optional<String> tag)
      throws IOException {
    return Discovery.of(store, directory, tag);
  }

  /** Whether DeepSpeed names its optimizer files so. */
  public static boolean isOptimizerName(String name) {
    return OPTIMIZER.matcher(name).matches();
  }

  /** Whether DeepSpeed names files of a mixture of experts so. */
  static boolean isOfExperts(String name) {
    return EXPERT.matcher(name).matches();
  }

  /** Whether a tag has files of this name. */
  public static boolean isTagFile(String name) {
    return OPTIMIZER.matcher(name).matches()
        || MODEL.matcher(name).matches()
        || RANK_MODEL.matcher(name).matches();
  }

  /**
   * The name of the file of another rank.
   *
   * @param name of a file of one data-parallel and model-parallel rank
   */
  public static String nameOf(String name, int rank, int mpRank) {
    Matcher m = RANKS.matcher(name);
    if (!m.find()) {
      throw new IllegalArgumentException(name + " is not the file of a rank");
    }
    String mp = "%0" + m.group(2).length() + "d";
    return m.replaceFirst("zero_pp_rank_" + rank + "_mp_rank_" + mp.formatted(mpRank));
  }

  /** The model-parallel rank that the name of a rank's file says. */
  static OptionalInt mpRankOf(String name) {
    Matcher m = RANKS.matcher(name);
    return m.find() ? OptionalInt.of(Integer.parseInt(m.group(2))) : OptionalInt.empty();
  }

  /**
   * The layer that a layer file holds and, under tensor parallelism, the tensor-parallel rank; else
   * null.
   */
  public record LayerName(int layer, int tensorRank) {
    public static LayerName parse(String fileName) {
      Matcher m = LAYER.matcher(fileName);
      if (!m.matches()) {
        return null;
      }
      return new LayerName(
          Integer.parseInt(m.group(1)), m.group(2) == null ? 0 : Integer.parseInt(m.group(2)));
    }
  }

  /**
   * What a file of one expert's weights holds, or null for the other files of a mixture of experts.
   *
   * @param layer counts the mixtures of experts in the module
   * @param expert the expert's global number
   */
  public record ExpertName(int layer, int expert, int mpRank) {
    public static ExpertName parse(String fileName) {
      Matcher m = EXPERT.matcher(fileName);
      if (!m.matches() || m.group(1) == null) {
        return null;
      }
      return new ExpertName(
          Integer.parseInt(m.group(1)), Integer.parseInt(m.group(2)), Integer.parseInt(m.group(3)));
    }
  }

  /** Files sorted by what their names say. */
  static final class Sorted {
    final SortedMap<Integer, FileStat> models = new TreeMap<>();
    final SortedMap<Integer, SortedMap<Integer, FileStat>> rankModels = new TreeMap<>();
    final SortedMap<Integer, SortedMap<Integer, FileStat>> optimizers = new TreeMap<>();
    final List<FileStat> layers = new ArrayList<>();
    final List<FileStat> experts = new ArrayList<>();
    final List<Carried> others = new ArrayList<>();

    void add(String tag, FileStat file) {
      Matcher m;
      if ((m = MODEL.matcher(file.name())).matches()) {
        put(models, Integer.parseInt(m.group(1)), file);
      } else if ((m = RANK_MODEL.matcher(file.name())).matches()) {
        put(ofMpRank(rankModels, m), Integer.parseInt(m.group(1)), file);
      } else if ((m = OPTIMIZER.matcher(file.name())).matches()) {
        put(ofMpRank(optimizers, m), Integer.parseInt(m.group(1)), file);
      } else if (LAYER.matcher(file.name()).matches()) {
        layers.add(file);
      } else if (EXPERT.matcher(file.name()).matches()) {
        experts.add(file);
      } else if (!file.name().equals(MANIFEST)) {
        others.add(new Carried(tag + "/" + file.name(), file));
      }
    }

    private static SortedMap<Integer, FileStat> ofMpRank(
        SortedMap<Integer, SortedMap<Integer, FileStat>> files, Matcher m) {
      return files.computeIfAbsent(Integer.parseInt(m.group(2)), k -> new TreeMap<>());
    }

    private static void put(SortedMap<Integer, FileStat> files, int rank, FileStat file) {
      FileStat other = files.put(rank, file);
      if (other != null) {
        throw new RefusedException(
            file.path(),
            "'%s' in the same directory is for the same rank. Two checkpoints are mixed here; keep the files of one."
                .formatted(other.name()));
      }
    }
  }
}
