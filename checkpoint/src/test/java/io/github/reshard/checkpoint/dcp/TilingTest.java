package io.github.reshard.checkpoint.dcp;

import static org.assertj.core.api.Assertions.assertThat;

import io.github.reshard.checkpoint.dcp.DcpMetadata.Chunk;
import io.github.reshard.checkpoint.dcp.DcpMetadata.Place;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.Random;
import net.jqwik.api.Arbitraries;
import net.jqwik.api.Arbitrary;
import net.jqwik.api.ForAll;
import net.jqwik.api.Property;
import net.jqwik.api.Provide;
import org.junit.jupiter.api.Test;

class TilingTest {
  private static final Place NOWHERE = new Place("f", 0, 1);

  /** A shape, and a seed of how it is cut. */
  record Cut(List<Long> shape, long seed) {
    List<Chunk> chunks() {
      List<Chunk> chunks = new ArrayList<>();
      cut(Collections.nCopies(shape.size(), 0L), shape, new Random(seed), 4, chunks);
      Collections.shuffle(chunks, new Random(seed));
      return chunks;
    }

    private static void cut(
        List<Long> offsets, List<Long> sizes, Random random, int depth, List<Chunk> out) {
      int d = sizes.isEmpty() ? 0 : random.nextInt(sizes.size());
      if (sizes.isEmpty() || depth == 0 || sizes.get(d) < 2) {
        out.add(new Chunk(offsets, sizes, NOWHERE));
        return;
      }
      long first = 1L + random.nextInt((int) (sizes.get(d) - 1));
      cut(offsets, with(sizes, d, first), random, depth - 1, out);
      cut(
          with(offsets, d, offsets.get(d) + first),
          with(sizes, d, sizes.get(d) - first),
          random,
          depth - 1,
          out);
    }
  }

  private static List<Long> with(List<Long> numbers, int at, long number) {
    List<Long> changed = new ArrayList<>(numbers);
    changed.set(at, number);
    return changed;
  }

  @Provide
  static Arbitrary<Cut> cuts() {
    return Arbitraries.longs()
        .between(1, 6)
        .list()
        .ofMaxSize(4)
        .flatMap(shape -> Arbitraries.longs().map(seed -> new Cut(shape, seed)));
  }

  @Property
  void acceptsWhatIsCutUp(@ForAll("cuts") Cut cut) {
    assertThat(Tiling.defect(cut.shape(), cut.chunks())).isEmpty();
  }

  @Property
  void findsTheFirstElementOfAHole(@ForAll("cuts") Cut cut) {
    List<Chunk> chunks = cut.chunks();
    Chunk lost = chunks.remove(0);

    assertThat(Tiling.defect(cut.shape(), chunks))
        .hasValue(
            "%d elements are missing, the first at %s".formatted(lost.elements(), lost.offsets()));
  }

  @Property
  void findsAnOverlap(@ForAll("cuts") Cut cut) {
    List<Chunk> chunks = cut.chunks();
    // Any chunk that holds an element again overlaps the one that held it.
    chunks.add(
        new Chunk(chunks.get(0).offsets(), Collections.nCopies(cut.shape().size(), 1L), NOWHERE));

    assertThat(Tiling.defect(cut.shape(), chunks).orElseThrow()).contains("overlap");
  }

  @Test
  void refusesWhatIsOutside() {
    assertThat(Tiling.defect(List.of(4L), List.of(chunk(List.of(2L), List.of(3L)))).orElseThrow())
        .contains("the chunk at [2] of sizes [3] is not within it");
    assertThat(
            Tiling.defect(
                List.of(4L), List.of(chunk(List.of(Long.MAX_VALUE), List.of(Long.MAX_VALUE)))))
        .isPresent();
    assertThat(Tiling.defect(List.of(4L), List.of(chunk(List.of(0L, 0L), List.of(4L, 1L)))))
        .isPresent();
  }

  @Test
  void aTensorWithoutElementsNeedsNoChunk() {
    assertThat(Tiling.defect(List.of(0L, 5L), List.of())).isEmpty();
    assertThat(Tiling.defect(List.of(), List.of()))
        .hasValue("1 elements are missing, the first at []");
  }

  private static Chunk chunk(List<Long> offsets, List<Long> sizes) {
    return new Chunk(offsets, sizes, NOWHERE);
  }
}
