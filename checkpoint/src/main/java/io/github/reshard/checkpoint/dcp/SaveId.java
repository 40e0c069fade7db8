package io.github.reshard.checkpoint.dcp;

import io.github.reshard.checkpoint.plan.ReshardPlan;
import io.github.reshard.checkpoint.plan.SourceFile;
import io.github.reshard.checkpoint.torch.TorchFile;
import java.nio.charset.StandardCharsets;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.util.HexFormat;
import java.util.Optional;

/**
 * What tells the files of one save from those of another: {@code .metadata} has it as {@code
 * storage_meta.save_id} (torch/distributed/checkpoint/metadata.py, {@code StorageMeta}), and the
 * archive of each container in a data file is called after the file and it. PyTorch gives each save
 * an id as well and calls all archives {@code archive}, so that its data files do not say where
 * they belong.
 *
 * @param text what {@code .metadata} has
 */
record SaveId(String text) {
  private static final String PREFIX = "reshard-";
  private static final int BYTES = 8;

  /**
   * That of what is made of {@code plan}'s source: of what its files hold, so that each attempt at
   * one job writes the same.
   *
   * @param directory where it goes
   */
  static SaveId of(ReshardPlan plan, String directory) {
    MessageDigest digest;
    try {
      digest = MessageDigest.getInstance("SHA-256");
    } catch (NoSuchAlgorithmException e) {
      throw new IllegalStateException("every Java platform has SHA-256", e);
    }
    StringBuilder source = new StringBuilder(directory).append('\n');
    for (SourceFile file : plan.sources()) {
      source.append("%s %d%n".formatted(file.stat().name(), file.stat().bytes()));
      for (TorchFile.Entry entry : file.entries()) {
        source.append("%s %d %08x%n".formatted(entry.name(), entry.bytes(), entry.crc32()));
      }
      digest.update(source.toString().getBytes(StandardCharsets.UTF_8));
      source.setLength(0);
    }
    return new SaveId(PREFIX + HexFormat.of().formatHex(digest.digest(), 0, BYTES));
  }

  /** The id that {@code .metadata} has, if it is one of these. */
  static Optional<SaveId> ofMetadata(String text) {
    return text.startsWith(PREFIX) ? Optional.of(new SaveId(text)) : Optional.empty();
  }

  /** What the archives in the data file {@code name} are called. */
  String archive(String name) {
    int dot = name.lastIndexOf('.');
    return (dot < 0 ? name : name.substring(0, dot)) + "-" + text;
  }
}
