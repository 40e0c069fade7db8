package io.github.reshard.checkpoint.copy;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.plan.CastCheck;
import io.github.reshard.checkpoint.plan.SliceCopy;

/** A claim about copied elements that is false, in words. */
final class Disagreement {
  private Disagreement() {}

  /**
   * Says that the claim of {@code found} is false.
   *
   * @param element the first element of the parameter that disagrees
   * @param path the file of what it should agree with
   * @param offset where in that file, in bytes
   * @throws RefusedException if it is about two copies: no one can say which is right, so {@code
   *     disagreements} are not asked
   */
  static void report(
      SliceCopier.Disagreements disagreements,
      SliceCopy found,
      long element,
      String path,
      long offset) {
    CastCheck cast = found.cast();
    CastCheck.Copies copies = cast.copies();
    if (copies != null) {
      throw new RefusedException(
          "parameter " + cast.parameter(),
          "ranks %d and %d share it and must hold the same %s, but element %d differs; rank %d's is in %s at byte %d. The shards are of different steps or runs, or one is damaged; restore them from a copy."
              .formatted(
                  copies.firstRank(),
                  copies.rank(),
                  copies.state(),
                  element,
                  copies.firstRank(),
                  path,
                  offset));
    }
    disagreements.found(
        found,
        element,
        new RefusedException(
            "parameter " + (found.tensor() == null ? cast.parameter() : found.tensor().parameter()),
            "element %d of the master weights, cast to %s, is not the module's weight in %s at byte %d. The files are of different steps, or the weights were changed by hand; if they were, on purpose, --trustMasters goes on."
                .formatted(element, cast.module(), path, offset)));
  }
}
