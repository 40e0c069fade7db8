package io.github.reshard.checkpoint.deepspeed;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.format.ReadFile;
import io.github.reshard.checkpoint.format.Rewritten;
import io.github.reshard.checkpoint.format.TrainingState;
import io.github.reshard.checkpoint.pickle.PyEquality;
import io.github.reshard.checkpoint.pickle.PyObject;
import io.github.reshard.checkpoint.plan.SourceFile;
import io.github.reshard.checkpoint.storage.SourceStore;
import io.github.reshard.checkpoint.torch.ElementText;
import io.github.reshard.checkpoint.torch.PathTo;
import io.github.reshard.checkpoint.torch.PickledValue;
import io.github.reshard.checkpoint.torch.TensorNode;
import io.github.reshard.checkpoint.torch.TorchFile;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.ByteBuffer;
import java.util.Arrays;
import java.util.IdentityHashMap;
import java.util.List;
import java.util.Optional;
import java.util.function.BiPredicate;
import java.util.function.Function;

/**
 * Compares what is not partitioned (step, hyper-parameters, loss scaler, versions) between the
 * ranks: each rank's file is rewritten as rank 0's, after which everything that depends on the rank
 * is the same.
 */
public final class ReplicaComparison {
  private final SourceStore store;
  private final List<SourceFile> sources;
  private final Function<TorchFile, Rewritten> asRank0;
  private TorchFile firstFile;
  private int firstSource;
  private Rewritten first;

  /**
   * @param asRank0 rewrites the optimizer file of any rank as that of rank 0
   */
  public ReplicaComparison(
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
  public Optional<String> add(int rank, int source, TorchFile file) throws IOException {
    if (first != null && file.hasPickleOf(firstFile) && carriesSameBytes(source, file)) {
      return Optional.empty();
    }
    Rewritten rewritten = asRank0.apply(file);
    if (first == null) {
      first = rewritten;
      firstFile = file;
      firstSource = source;
      return Optional.empty();
    }
    PickledValue mine = PickledValue.root(file.path(), rewritten.root());
    PickledValue other = PickledValue.root(firstFile.path(), first.root());
    Tensors tensors = new Tensors(rank, source, file, rewritten);
    tensors.addRankLocal(new OptimizerFile(other).stateDict());
    tensors.addRankLocal(new OptimizerFile(mine).stateDict());
    // DeepSpeed's own files differ in the order of the keys of a group's state.
    Optional<String> structural =
        PyEquality.firstDifference(
            new OptimizerFile(other).stateDict().node(),
            new OptimizerFile(mine).stateDict().node(),
            tensors,
            PyEquality.KeyOrder.IGNORED_IN_DICTS);
    Optional<String> difference = tensors.difference.or(() -> structural);
    if (difference.isPresent()) {
      throw new RefusedException(
          file.path(),
          "rank %d and the first rank (%s) disagree on what all ranks must share: %s. %s"
              .formatted(
                  rank, firstFile.path(), difference.get(), RankLocal.reason(difference.get())));
    }
    return PyEquality.firstDifference(
            first.root(), rewritten.root(), tensors, PyEquality.KeyOrder.IGNORED_IN_DICTS)
        .or(() -> tensors.difference)
        .map("in what is not optimizer state (%s)"::formatted)
        .or(
            () ->
                tensors.local.map(
                    "in %s, which each rank computes anew before it uses it"::formatted))
        .map(
            what ->
                "rank %d differs from rank 0 %s; ranks keep theirs, new ranks get rank 0's"
                    .formatted(rank, what));
  }

  /** What is left to compare between files that say the same: the storages that are not cut. */
  private boolean carriesSameBytes(int source, TorchFile file) throws IOException {
    for (Rewritten.Storage storage : first.storages()) {
      if (storage.bytes() > 0
          && storage.content() instanceof Rewritten.Content.Carried carried
          && !sameBytes(carried.sourceKey(), source, file, carried.sourceKey())) {
        return false;
      }
    }
    return true;
  }

  /** Equality of tensors by what they hold: the numbers of storages follow the order of keys. */
  private final class Tensors implements BiPredicate<PyObject, PyObject> {
    private final int rank;
    private final int source;
    private final TorchFile file;
    private final Rewritten rewritten;
    private final IdentityHashMap<PyObject, String> rankLocal = new IdentityHashMap<>();
    private Optional<String> difference = Optional.empty();
    private Optional<String> local = Optional.empty();

    Tensors(int rank, int source, TorchFile file, Rewritten rewritten) {
      this.rank = rank;
      this.source = source;
      this.file = file;
      this.rewritten = rewritten;
    }

    void addRankLocal(PickledValue optimizer) {
      rankLocal.putAll(RankLocal.in(optimizer));
    }

    @Override
    public boolean test(PyObject ofFirst, PyObject mine) {
      if (rankLocal.containsKey(ofFirst) && rankLocal.containsKey(mine)) {
        local = Optional.of(rankLocal.get(mine));
        return true;
      }
      Optional<TensorNode> a = TensorNode.of(ofFirst);
      Optional<TensorNode> b = TensorNode.of(mine);
      if (a.isEmpty()
          || b.isEmpty()
          || a.get().dtype() != b.get().dtype()
          || !Arrays.equals(a.get().shape(), b.get().shape())
          || !Arrays.equals(a.get().stride(), b.get().stride())
          || a.get().storageOffset() != b.get().storageOffset()) {
        return false;
      }
      Rewritten.Content contentA = contentOf(first, a.get());
      Rewritten.Content contentB = contentOf(rewritten, b.get());
      if (!(contentA instanceof Rewritten.Content.Carried carriedA)
          || !(contentB instanceof Rewritten.Content.Carried carriedB)) {
        return contentA.equals(contentB);
      }
      try {
        if (!sameBytes(carriedA.sourceKey(), source, file, carriedB.sourceKey())
            && difference.isEmpty()) {
          difference =
              Optional.of(
                  "%s: a tensor of %s %s is %s on rank %d and %s on the first rank"
                      .formatted(
                          PathTo.node(PickledValue.root(file.path(), rewritten.root()), mine),
                          b.get().dtype().torchName(),
                          Arrays.toString(b.get().shape()),
                          text(source, file, carriedB.sourceKey(), b.get()),
                          rank,
                          text(firstSource, firstFile, carriedA.sourceKey(), a.get())));
        }
      } catch (IOException e) {
        throw new UncheckedIOException(e);
      }
      return true;
    }

    private static Rewritten.Content contentOf(Rewritten of, TensorNode tensor) {
      return of.storages().stream()
          .filter(storage -> storage.key().equals(tensor.storageKey()))
          .findFirst()
          .orElseThrow()
          .content();
    }
  }

  /** The value of a tensor of one element, such as the optimizer's step. */
  private String text(int source, TorchFile file, String key, TensorNode tensor)
      throws IOException {
    TorchFile.Entry entry = file.storage(key).orElseThrow();
    return tensor.numel() == 1 && entry.bytes() == tensor.dtype().bytes()
        ? ElementText.of(tensor.dtype(), content(source, entry), 0)
        : "another one";
  }

  /** Whether two tensors of a file that fill their storages hold the same bytes. */
  public static boolean sameBytes(TrainingState state, ReadFile read, TensorNode a, TensorNode b)
      throws IOException {
    if (a.storageKey().equals(b.storageKey())) {
      return a.storageOffset() == b.storageOffset();
    }
    ReplicaComparison same = new ReplicaComparison(state.store(), state.sources(), null);
    same.firstFile = read.file();
    same.firstSource = read.source();
    return same.sameBytes(a.storageKey(), read.source(), read.file(), b.storageKey());
  }

  private boolean sameBytes(String firstKey, int source, TorchFile file, String key)
      throws IOException {
    TorchFile.Entry a = firstFile.storage(firstKey).orElse(null);
    TorchFile.Entry b = file.storage(key).orElse(null);
    if (a == null || b == null) {
      return a == null && b == null; // storages of 0 bytes
    }
    if (a.bytes() != b.bytes()) {
      return false;
    }
    if (firstFile.hasCrcs() && file.hasCrcs()) {
      return a.crc32() == b.crc32();
    }
    return content(firstSource, a).equals(content(source, b));
  }

  private ByteBuffer content(int source, TorchFile.Entry entry) throws IOException {
    return store.read(sources.get(source).stat(), entry.payloadOffset(), entry.bytes());
  }
}
