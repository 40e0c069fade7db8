package io.github.reshard.checkpoint.plan;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.state.Address;
import io.github.reshard.checkpoint.state.ParamId;
import io.github.reshard.checkpoint.state.States;
import io.github.reshard.checkpoint.torch.DType;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.assertj.core.api.AbstractThrowableAssert;
import org.junit.jupiter.api.Test;

class ParameterTensorTest {
  private static final ParamId ID = new ParamId("in/tag", 0, "fc.weight");
  private static final Map<String, DType> STATES = new LinkedHashMap<>();

  static {
    STATES.put("exp_avg", DType.FLOAT16);
    STATES.put(States.MASTER, DType.FLOAT32);
  }

  private static RankSlice slice(int rank, long start, long elements, StateExtent... states) {
    return new RankSlice(rank, start, elements, List.of(states));
  }

  private static StateExtent moment(int file) {
    return new StateExtent("exp_avg", DType.FLOAT16, file, 1, 100);
  }

  private static StateExtent master(int file) {
    return new StateExtent(States.MASTER, DType.FLOAT32, file, 2, 200);
  }

  private static AbstractThrowableAssert<?, ? extends Throwable> assertRefused(
      RankSlice... slices) {
    return assertThatThrownBy(
            () -> ParameterTensor.assemble(ID, 10, STATES, Map.of(), Arrays.asList(slices)))
        .isInstanceOf(RefusedException.class)
        .hasMessageContaining("parameter fc.weight (mp rank 0)");
  }

  @Test
  void slicesInAnyOrderMakeAWhole() {
    ParameterTensor tensor =
        ParameterTensor.assemble(
            ID,
            10,
            STATES,
            Map.of(),
            List.of(slice(1, 6, 4, moment(1), master(1)), slice(0, 0, 6, master(0), moment(0))));

    assertThat(tensor.states().get("exp_avg"))
        .containsExactly(
            new ParameterTensor.Piece(0, 6, 0, DType.FLOAT16, new Address(0, 1, 100)),
            new ParameterTensor.Piece(6, 4, 1, DType.FLOAT16, new Address(1, 1, 100)));
  }

  @Test
  void aGapIsRefused() {
    assertRefused(slice(0, 0, 5, moment(0), master(0)), slice(1, 6, 4, moment(1), master(1)))
        .hasMessageContaining("'exp_avg': elements 5 to 6 are missing; rank 1 holds");
  }

  @Test
  void aGapAtTheEndIsRefused() {
    assertRefused(slice(0, 0, 9, moment(0), master(0)))
        .hasMessageContaining("'exp_avg': expected 10 elements, the shards hold 9");
  }

  @Test
  void anOverlapIsRefused() {
    assertRefused(slice(0, 0, 7, moment(0), master(0)), slice(1, 6, 4, moment(1), master(1)))
        .hasMessageContaining("'exp_avg': elements 6 to 7 are there twice; rank 1 holds");
  }

  @Test
  void aSliceThatIsThereTwiceIsRefused() {
    assertRefused(slice(0, 0, 10, moment(0), master(0)), slice(0, 0, 10, moment(0), master(0)))
        .hasMessageContaining("there twice");
  }

  @Test
  void moreElementsThanTheParameterHasAreRefused() {
    assertRefused(slice(0, 0, 11, moment(0), master(0)))
        .hasMessageContaining("expected 10 elements, the shards hold 11");
  }

  @Test
  void aStateThatOneRankLacksIsRefused() {
    assertRefused(slice(0, 0, 6, moment(0), master(0)), slice(1, 6, 4, master(1)))
        .hasMessageContaining("'exp_avg': expected 10 elements, the shards hold 6");
  }

  @Test
  void anUnknownStateIsRefused() {
    assertRefused(
            slice(0, 0, 10, moment(0), master(0), new StateExtent("sum", DType.FLOAT32, 0, 0, 0)))
        .hasMessageContaining("'sum': rank 0 holds it as FLOAT32, expected no such state");
  }

  @Test
  void anotherTypeIsRefused() {
    assertRefused(slice(0, 0, 10, new StateExtent("exp_avg", DType.BFLOAT16, 0, 0, 0), master(0)))
        .hasMessageContaining("'exp_avg': rank 0 holds it as BFLOAT16, expected FLOAT16");
  }

  @Test
  void aParameterWithoutElementsNeedsNoSlices() {
    assertThat(ParameterTensor.assemble(ID, 0, STATES, Map.of(), List.of()).states().get("exp_avg"))
        .isEmpty();
  }
}
