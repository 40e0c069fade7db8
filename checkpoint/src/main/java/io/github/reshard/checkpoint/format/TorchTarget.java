package io.github.reshard.checkpoint.format;

import io.github.reshard.checkpoint.pickle.PickleWriter;
import io.github.reshard.checkpoint.plan.TargetFile;
import io.github.reshard.checkpoint.state.PartitionedModel;
import io.github.reshard.checkpoint.torch.ByteSegment;
import io.github.reshard.checkpoint.torch.StorageSize;
import io.github.reshard.checkpoint.torch.TorchFile;
import io.github.reshard.checkpoint.torch.TorchFileLayout;
import java.nio.file.Path;
import java.util.List;

/** Torch files of the output around their payloads: pickles, zip headers and directories. */
public final class TorchTarget {
  private TorchTarget() {}

  /** A file's layout and the storages in it. */
  public record Planned(TorchFileLayout layout, List<Rewritten.Storage> storages) {
    /**
     * Every byte of the file that is not payload.
     *
     * @param file the file as it was planned
     * @param crcs for each entry of the file, the CRC-32 of its payload
     */
    List<ByteSegment> skeleton(TargetFile file, List<Integer> crcs) {
      return file.skeleton(layout, storages.stream().map(Rewritten.Storage::key).toList(), crcs);
    }
  }

  /**
   * What a file says, which ranks may have in common.
   *
   * @param pickle its object graph, pickled
   * @param storages what that refers to
   * @param sizes of the storages
   * @param keepsId whether it keeps the template's serialization id if the number of ranks stays
   * @param newId the serialization id it has otherwise
   */
  @SuppressWarnings("ArrayRecordComponent") // Never compared.
  public record Pickled(
      byte[] pickle,
      List<Rewritten.Storage> storages,
      List<StorageSize> sizes,
      boolean keepsId,
      byte[] newId) {}

  public static Pickled pickled(
      TorchFile template, TorchRecipe recipe, List<PartitionedModel> models, int targetWorldSize) {
    Rewritten rewritten = recipe.rewrite(template, models, targetWorldSize);
    byte[] pickle = PickleWriter.write(rewritten.root(), template.parse().protocol());
    List<StorageSize> sizes =
        rewritten.storages().stream().map(st -> new StorageSize(st.key(), st.bytes())).toList();
    return new Pickled(
        pickle,
        rewritten.storages(),
        sizes,
        recipe.isOfSameKind(),
        TorchFileLayout.serializationId(pickle, sizes));
  }

  /** Rewrites {@code template} as {@code recipe} says and lays the result out. */
  public static Planned plan(
      TorchFile template,
      String fileName,
      TorchRecipe recipe,
      List<PartitionedModel> models,
      int sourceWorldSize,
      int targetWorldSize) {
    return plan(
        template,
        fileName,
        pickled(template, recipe, models, targetWorldSize),
        sourceWorldSize,
        targetWorldSize);
  }

  /** Lays out a file that says {@code content}. */
  public static Planned plan(
      TorchFile template,
      String fileName,
      Pickled content,
      int sourceWorldSize,
      int targetWorldSize) {
    byte[] serializationId =
        sourceWorldSize == targetWorldSize
                && content.keepsId()
                && template.serializationId().isPresent()
            ? template.serializationId().get()
            : content.newId();
    return new Planned(
        TorchFileLayout.plan(
            template.style(),
            archiveName(template, fileName),
            content.pickle(),
            content.sizes(),
            serializationId),
        content.storages());
  }

  /**
   * {@code torch.save} names the archive after the file; what was named otherwise keeps its name.
   */
  private static String archiveName(TorchFile template, String fileName) {
    String stem = stem(Path.of(template.path()).getFileName().toString());
    return template.archiveName().equals(stem) ? stem(fileName) : template.archiveName();
  }

  private static String stem(String fileName) {
    int dot = fileName.lastIndexOf('.');
    return dot < 0 ? fileName : fileName.substring(0, dot);
  }
}
