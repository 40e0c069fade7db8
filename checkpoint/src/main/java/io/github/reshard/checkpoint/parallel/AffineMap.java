package io.github.reshard.checkpoint.parallel;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.state.Box;
import io.github.reshard.checkpoint.state.LocalTensor;
import io.github.reshard.checkpoint.torch.PickledValue;
import java.util.ArrayList;
import java.util.List;

/**
 * Where the local tensors of all tensor-parallel ranks lie in a parameter, as DeepSpeed 0.19.7 and
 * later record it for the number of ranks that saved it (checkpoint/affine.py, {@code
 * ParamAffineMap}).
 *
 * @param shape of the full tensor
 * @param locals by rank
 */
record AffineMap(List<Long> shape, List<LocalTensor> locals) {
  /** {@code AFFINE_MAP_FORMAT_VERSION}. */
  static final int VERSION = 1;

  AffineMap {
    shape = List.copyOf(shape);
    locals = List.copyOf(locals);
  }

  /**
   * Reads the map of a parameter.
   *
   * @throws RefusedException if it is broken, or its pieces are no boxes or scaled
   */
  static AffineMap of(PickledValue map, int ranks) {
    List<Long> shape = map.get("logical_shape").asSize();
    List<LocalTensor> locals = new ArrayList<>();
    List<PickledValue.Entry> byRank = map.get("ranks").children();
    if (byRank.size() != ranks) {
      throw map.refused("expected %d ranks, found %d".formatted(ranks, byRank.size()));
    }
    for (int rank = 0; rank < ranks; rank++) {
      if (!byRank.get(rank).key().equals(Integer.toString(rank))) {
        throw map.refused("expected rank %d, found %s".formatted(rank, byRank.get(rank).key()));
      }
      locals.add(local(shape, byRank.get(rank).value()));
    }
    return new AffineMap(shape, locals);
  }

  private static LocalTensor local(List<Long> shape, PickledValue rank) {
    List<Long> own = rank.get("shard_shape").asSize();
    List<LocalTensor.Block> blocks = new ArrayList<>();
    for (PickledValue piece : rank.get("pieces").items()) {
      piece
          .find("scale")
          .ifPresent(
              scale -> {
                throw scale.refused(
                    "the ranks hold this parameter scaled, and with it a step size that belongs to"
                        + " no other number of ranks. The tensor-parallel size has to stay as"
                        + " saved");
              });
      List<Long> sizes = piece.get("shape").asSize();
      if (Box.elements(sizes) == 0) {
        continue;
      }
      Box full = box(shape, sizes, piece.get("source"));
      Box local = box(own, sizes, piece.get("dest"));
      blocks.add(new LocalTensor.Block(full, local.offsets()));
    }
    if (!Box.tile(own, blocks.stream().map(LocalTensor.Block::local).toList())) {
      throw rank.refused("its pieces are not all of a tensor of shape %s once".formatted(own));
    }
    return new LocalTensor(own, Blocks.joined(blocks));
  }

  /** The box of a tensor that a view of it is. */
  private static Box box(List<Long> around, List<Long> sizes, PickledValue view) {
    List<PickledValue> offsetAndStrides = view.items();
    if (offsetAndStrides.size() != 2) {
      throw view.refused("expected an offset and strides");
    }
    List<PickledValue> strides = offsetAndStrides.get(1).items();
    boolean isBox = sizes.size() == around.size() && strides.size() == sizes.size();
    long rest = offsetAndStrides.get(0).asLong();
    long elements = Box.elements(around);
    isBox = isBox && rest >= 0 && elements > 0;
    List<Long> offsets = new ArrayList<>();
    for (int d = 0; isBox && d < around.size(); d++) {
      elements /= around.get(d);
      isBox = sizes.get(d) <= 1 || strides.get(d).asLong() == elements;
      offsets.add(rest / elements);
      rest %= elements;
    }
    Box box = isBox ? new Box(offsets, sizes) : null;
    if (box == null || !box.fits(around)) {
      throw view.refused(
          "the piece of shape %s is no box of a tensor of shape %s, and nothing else is understood. The tensor-parallel size has to stay as saved"
              .formatted(sizes, around));
    }
    return box;
  }
}
