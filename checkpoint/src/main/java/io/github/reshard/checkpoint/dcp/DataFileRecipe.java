package io.github.reshard.checkpoint.dcp;

import io.github.reshard.checkpoint.plan.Recipe;
import io.github.reshard.checkpoint.plan.ReshardPlan;
import io.github.reshard.checkpoint.storage.SourceStore;
import io.github.reshard.checkpoint.torch.ByteSegment;
import java.util.ArrayList;
import java.util.List;

/**
 * A {@code .distcp} file: containers one after the other.
 *
 * @param archive what the archive of each is called
 * @param pieces what they hold, in the order of the file
 */
record DataFileRecipe(String archive, List<Piece> pieces) implements Recipe {
  DataFileRecipe {
    pieces = List.copyOf(pieces);
  }

  @Override
  public List<ByteSegment> skeleton(
      ReshardPlan plan, SourceStore store, int target, List<Integer> crcs) {
    List<ByteSegment> segments = new ArrayList<>();
    long begin = 0;
    int entry = 0;
    for (Piece piece : pieces) {
      int crc32 = piece.payloadBytes() > 0 ? crcs.get(entry++) : 0;
      for (ByteSegment segment : piece.segments(archive, crc32)) {
        segments.add(new ByteSegment(begin + segment.offset(), segment.bytes()));
      }
      begin += piece.layout(archive).totalBytes();
    }
    return segments;
  }
}
