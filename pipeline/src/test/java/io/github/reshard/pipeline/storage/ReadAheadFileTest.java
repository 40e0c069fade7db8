package io.github.reshard.pipeline.storage;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import io.github.reshard.checkpoint.storage.ByteRange;
import java.io.EOFException;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import java.util.Random;
import org.junit.jupiter.api.Test;

class ReadAheadFileTest {
  private static final int CHUNK = ReadAheadFile.CHUNK_BYTES;

  private final byte[] content = new byte[5 * CHUNK / 2];
  private final List<ByteRange> fetched = Collections.synchronizedList(new ArrayList<>());
  private final ReadAheadFile file =
      new ReadAheadFile(
          "far/away",
          content.length,
          (position, bytes) -> {
            fetched.add(new ByteRange(position, bytes));
            return Arrays.copyOfRange(content, (int) position, (int) position + bytes);
          });

  ReadAheadFileTest() {
    new Random(1).nextBytes(content);
  }

  private void assertRead(int position, int bytes) throws IOException {
    ByteBuffer target = ByteBuffer.allocate(bytes);
    file.readFully(position, target);
    assertThat(target.array()).isEqualTo(Arrays.copyOfRange(content, position, position + bytes));
  }

  @Test
  void whatIsNotAnnouncedIsFetchedAsAskedAndNoMore() throws IOException {
    assertRead(10, 20);
    assertThat(fetched).containsExactly(new ByteRange(10, 20));
  }

  @Test
  void whatIsAnnouncedIsFetchedInChunksOnceAndNothingBeyondIt() throws IOException {
    file.expect(List.of(new ByteRange(100, CHUNK + 64), new ByteRange(2L * CHUNK, 10)));
    for (int at = 100; at < 100 + CHUNK + 64; at += 64) {
      assertRead(at, 64);
    }
    assertRead(2 * CHUNK, 10);
    assertThat(fetched)
        .containsExactlyInAnyOrder(
            new ByteRange(100, CHUNK),
            new ByteRange(100 + CHUNK, 64),
            new ByteRange(2L * CHUNK, 10));
  }

  @Test
  void aReadThatJumpsBackIsRightToo() throws IOException {
    file.expect(List.of(new ByteRange(0, content.length)));
    assertRead(CHUNK + 5, 7);
    assertRead(3, 4);
    assertRead(2 * CHUNK - 1, 9);
  }

  @Test
  void theEndOfTheFileIsNotPassed() {
    assertThatThrownBy(() -> file.readFully(content.length - 1, ByteBuffer.allocate(2)))
        .isInstanceOf(EOFException.class)
        .hasMessageContaining("far/away ends at byte " + content.length);
    assertThat(fetched).isEmpty();
  }
}
