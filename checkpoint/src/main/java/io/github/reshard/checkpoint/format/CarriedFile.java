package io.github.reshard.checkpoint.format;

import io.github.reshard.checkpoint.torch.TorchFile;
import java.util.Optional;

/**
 * A file that belongs to the checkpoint and goes along as it is.
 *
 * @param path where it goes: in the tag, or relative to the output
 * @param ofTag whether it lies in the tag
 * @param source its index in {@link TrainingState#sources()}
 * @param file the file, if it was read: weights of a layer, or of an expert
 */
public record CarriedFile(String path, boolean ofTag, int source, Optional<TorchFile> file) {}
