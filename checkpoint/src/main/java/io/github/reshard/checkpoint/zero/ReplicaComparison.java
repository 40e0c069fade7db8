package io.github.reshard.checkpoint.zero;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.pickle.PyEquality;
import io.github.reshard.checkpoint.plan.SourceFile;
import io.github.reshard.checkpoint.storage.RangedFile;
import io.github.reshard.checkpoint.storage.SourceStore;
import io.github.reshard.checkpoint.torch.TensorNode;
import io.github.reshard.checkpoint.torch.TorchFile;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.util.List;
import java.util.Optional;
import java.util.function.Function;

/**
 * Compares what is not partitioned (step, hyper-parameters, loss scaler, versions) between the
 * ranks: each rank's file is rewritten as rank 0's, after which everything that depends on the rank
 * is the same.
 */
final class ReplicaComparison {
  private final SourceStore store;
  private final List<SourceFile> sources;
  private final Function<TorchFile, Rewritten> asRank0;
  private TorchFile firstFile;
  private int firstSource;
  private Rewritten first;

  /**
   * @param asRank0 rewrites the optimizer file of any rank as that of rank 0
   */
  ReplicaComparison(
      SourceStore store, List<SourceFile> sources, Function<TorchFile, Rewritten> asRank0) {
    this.store = store;
    this.sources = sources;
    this.asRank0 = asRank0;
  }

  /**
   * Compares a rank with the first one that was added.
   *
   * @return what differs beside the optimizer's state, if anything does
   * @throws RefusedException if the optimizer's state differs
   */
  Optional<String> add(int rank, int source, TorchFile file) throws IOException {
    Rewritten rewritten = asRank0.apply(file);
    if (first == null) {
      first = rewritten;
      firstFile = file;
      firstSource = source;
      return Optional.empty();
    }
    PickledValue mine = PickledValue.root(file.path(), rewritten.root());
    PickledValue other = PickledValue.root(firstFile.path(), first.root());
    Optional<String> difference =
        PyEquality.firstDifference(
            new OptimizerStates(other).stateDict().node(),
            new OptimizerStates(mine).stateDict().node());
    if (difference.isPresent()) {
      throw new RefusedException(
          file.path(),
          "rank %d and the first rank disagree on what all ranks must share: %s. The shards are of different steps or runs."
              .formatted(rank, difference.get()));
    }
    for (int s = 0; s < first.storages().size(); s++) {
      if (first.storages().get(s).content() instanceof Rewritten.Content.Carried a
          && rewritten.storages().get(s).content() instanceof Rewritten.Content.Carried b
          && !sameBytes(a.sourceKey(), source, file, b.sourceKey())) {
        throw new RefusedException(
            file.path(),
            "rank %d and the first rank disagree on a value that all ranks must share (storage '%s', such as the optimizer's step). The shards are of different steps or runs."
                .formatted(rank, b.sourceKey()));
      }
    }
    return PyEquality.firstDifference(first.root(), rewritten.root())
        .map(
            d ->
                "rank %d differs from rank 0 in what is not optimizer state (%s); ranks keep theirs, new ranks get rank 0's"
                    .formatted(rank, d));
  }

  /** Whether two tensors of a file that fill their storages hold the same bytes. */
  static boolean sameBytes(
      PlanBuilder plan, int source, TorchFile file, TensorNode a, TensorNode b)
      throws IOException {
    if (a.storageKey().equals(b.storageKey())) {
      return a.storageOffset() == b.storageOffset();
    }
    ReplicaComparison same = new ReplicaComparison(plan.store, plan.sources, null);
    same.firstFile = file;
    same.firstSource = source;
    return same.sameBytes(a.storageKey(), source, file, b.storageKey());
  }

  private boolean sameBytes(String firstKey, int source, TorchFile file, String key)
      throws IOException {
    TorchFile.Entry a = firstFile.storage(firstKey).orElseThrow();
    TorchFile.Entry b = file.storage(key).orElseThrow();
    if (a.bytes() != b.bytes()) {
      return false;
    }
    if (firstFile.hasCrcs() && file.hasCrcs()) {
      return a.crc32() == b.crc32();
    }
    return content(firstSource, a).equals(content(source, b));
  }

  private ByteBuffer content(int source, TorchFile.Entry entry) throws IOException {
    ByteBuffer bytes = ByteBuffer.allocate(Math.toIntExact(entry.bytes()));
    try (RangedFile open = store.open(sources.get(source).stat())) {
      open.readFully(entry.payloadOffset(), bytes);
    }
    return bytes.flip();
  }
}
