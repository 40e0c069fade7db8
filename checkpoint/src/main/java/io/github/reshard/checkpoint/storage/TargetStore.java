package io.github.reshard.checkpoint.storage;

import java.io.IOException;
import java.io.Serializable;
import java.util.List;
import java.util.Optional;

/**
 * Where a checkpoint is written. Nothing that is written is part of the output until it is
 * published, and every call may be repeated: runners retry, and two workers may do the same work.
 */
public interface TargetStore extends Serializable {
  /** The file that names the tag which {@code load_checkpoint} loads. */
  String LATEST = "latest";

  /**
   * The file that names the tag which {@code load_checkpoint} loads with {@code load_universal}
   * (DeepSpeed 0.19.8, runtime/engine.py, {@code load_checkpoint}).
   */
  String LATEST_UNIVERSAL = "latest_universal";

  /**
   * The file that names the newest distributed checkpoint of PyTorch. Nothing but this program
   * reads it; the other two are DeepSpeed's, and it would take them for its own files.
   */
  String LATEST_DCP = "latest_dcp";

  /**
   * The file that says that all others beside it are whole: that of a distributed checkpoint of
   * PyTorch (torch/distributed/checkpoint/filesystem.py, {@code finish}). It appears last.
   */
  String COMMIT = ".metadata";

  /** All files that name a tag. */
  List<String> POINTERS = List.of(LATEST, LATEST_UNIVERSAL, LATEST_DCP);

  /**
   * Makes the place ready and removes what an earlier run left unpublished.
   *
   * @throws io.github.reshard.checkpoint.OutputException if the tag is there and may not be
   *     replaced
   */
  void begin() throws IOException;

  /**
   * Keeps what the job itself needs beside the unpublished files. It is never published and goes
   * when they go.
   */
  void keep(byte[] content) throws IOException;

  /**
   * What was kept.
   *
   * @throws io.github.reshard.checkpoint.OutputException if it is gone
   */
  byte[] kept() throws IOException;

  /** Opens an unpublished file; {@code path} is relative to the output, with {@code /}. */
  PositionalFile open(String path) throws IOException;

  /**
   * Whether what one {@link PositionalFile} gets must come by ascending position: an object store
   * takes a run of bytes as a stream and cannot write in the middle.
   */
  default boolean ascending() {
    return false;
  }

  /**
   * Makes the content of an unpublished file durable.
   *
   * @param bytes the length that it must have
   * @param executable whether it is marked as a program, where the store knows such a mark
   */
  void finish(String path, long bytes, boolean executable) throws IOException;

  /**
   * Makes all unpublished files the output, and its {@code latest} last. Does nothing if that has
   * been done.
   *
   * @param paths all of them, those of the tag and those beside it
   * @param manifest which of them is written here, because only now its content is known
   * @param content what it holds
   * @return whether nothing unpublished is left; if something cannot be removed any more the output
   *     is whole all the same, and {@link Leftovers} are what is left
   */
  boolean publish(List<String> paths, String manifest, byte[] content) throws IOException;

  /** The content of a small file of the output; empty if it is not there. */
  default Optional<byte[]> published(String path) throws IOException {
    return Optional.empty();
  }

  /**
   * Removes what is unpublished after a failure. What a crash in the middle of publishing left is
   * kept: the next run needs it.
   */
  void abandon() throws IOException;
}
