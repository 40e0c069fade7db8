package io.github.reshard.checkpoint.deepspeed;

import static org.assertj.core.api.Assertions.assertThat;

import java.util.List;
import java.util.SortedMap;
import java.util.TreeMap;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;

/** Which names, given to ranks 0, 1, 2, ..., are in an order that is not that of the ranks. */
class NumberedNamesTest {
  private static SortedMap<Integer, String> ofRanks(String names) {
    SortedMap<Integer, String> byRank = new TreeMap<>();
    List.of(names.split(" ")).forEach(name -> byRank.put(byRank.size(), name));
    return byRank;
  }

  @ParameterizedTest
  @ValueSource(
      strings = {
        "shard_0 shard_1 shard_2",
        "shard_1 shard_2 shard_3",
        "s10-of-4-0 s10-of-4-1 s10-of-4-2",
      })
  void theOrderIsTold(String names) {
    assertThat(NumberedNames.outOfOrder(ofRanks(names))).isEmpty();
    assertThat(NumberedNames.tellsOrder(ofRanks(names))).isTrue();
  }

  @ParameterizedTest
  @ValueSource(
      strings = {
        "archive archive archive",
        "optimizer.0 optimizer.0",
        "local0 local1 local0 local1",
        "pid7311 pid7305 pid7402",
        "a1_b2 a2_b1 a1_b1",
        "alone",
        "one two",
      })
  void nothingIsTold(String names) {
    assertThat(NumberedNames.outOfOrder(ofRanks(names))).isEmpty();
    assertThat(NumberedNames.tellsOrder(ofRanks(names))).isFalse();
  }

  @ParameterizedTest
  @CsvSource({
    "s1 s0, 0",
    "s0 s2 s1 s3, 1",
    "s0 s0 s2, 1",
    "s4 s6 s5, 1",
    "s0 s1 s2 archive s3, 4",
    "s0 s1 s2 s90, 3",
  })
  void aRankIsOutOfOrder(String names, int rank) {
    assertThat(NumberedNames.outOfOrder(ofRanks(names))).contains(rank);
    assertThat(NumberedNames.tellsOrder(ofRanks(names))).isFalse();
  }
}
