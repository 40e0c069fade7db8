package io.github.reshard.checkpoint.zero3;

import io.github.reshard.checkpoint.format.ReadFile;
import io.github.reshard.checkpoint.torch.TorchFile;
import java.util.ArrayList;
import java.util.List;
import java.util.function.Supplier;

/** What is worked out once for all files that say the same; usually those of all ranks do. */
final class Shared<T> {
  private static final int MOST_COMPARED = 4;

  private final List<TorchFile> files = new ArrayList<>();
  private final List<T> values = new ArrayList<>();

  T get(ReadFile file, Supplier<T> make) {
    // Most recent first: a rank that differs from all others costs a look at each of them.
    for (int i = files.size() - 1; i >= Math.max(0, files.size() - MOST_COMPARED); i--) {
      if (files.get(i).hasPickleOf(file.file())) {
        return values.get(i);
      }
    }
    files.add(file.file());
    values.add(make.get());
    return values.get(values.size() - 1);
  }
}
