package io.github.reshard.transforms;

import static org.assertj.core.api.Assertions.assertThat;

import io.github.reshard.checkpoint.copy.SliceCrc;
import io.github.reshard.checkpoint.plan.CastCheck;
import io.github.reshard.checkpoint.plan.Conversion;
import io.github.reshard.checkpoint.plan.ParameterTensor;
import io.github.reshard.checkpoint.plan.PartId;
import io.github.reshard.checkpoint.plan.RankSlice;
import io.github.reshard.checkpoint.plan.Rows;
import io.github.reshard.checkpoint.plan.SliceCopy;
import io.github.reshard.checkpoint.plan.StateExtent;
import io.github.reshard.checkpoint.plan.TensorRun;
import io.github.reshard.checkpoint.state.Address;
import io.github.reshard.checkpoint.state.ParamId;
import io.github.reshard.checkpoint.torch.DType;
import java.util.List;
import java.util.Map;
import net.jqwik.api.Arbitraries;
import net.jqwik.api.Arbitrary;
import net.jqwik.api.Combinators;
import net.jqwik.api.ForAll;
import net.jqwik.api.Property;
import net.jqwik.api.Provide;
import org.apache.beam.sdk.coders.Coder;
import org.apache.beam.sdk.util.CoderUtils;

class CodersTest {
  private static final Arbitrary<Integer> INDEX = Arbitraries.integers().between(-1, 1 << 20);
  private static final Arbitrary<Long> COUNT = Arbitraries.longs().between(0, 1L << 50);
  private static final Arbitrary<String> NAME = Arbitraries.strings().ofMaxLength(40);
  private static final Arbitrary<DType> DTYPE = Arbitraries.of(DType.class);
  private static final Arbitrary<Address> ADDRESS =
      Combinators.combine(INDEX, INDEX, COUNT).as(Address::new);
  private static final Arbitrary<ParamId> PARAM_ID =
      Combinators.combine(NAME, INDEX, NAME).as(ParamId::new);

  /** An element, and how it travels. */
  private record Travelling<T>(Coder<T> coder, T element) {
    byte[] encoded() throws Exception {
      return CoderUtils.encodeToByteArray(coder, element);
    }

    Object afterwards() throws Exception {
      return CoderUtils.decodeFromByteArray(coder, encoded());
    }
  }

  private static <T> Arbitrary<Travelling<?>> of(Coder<T> coder, Arbitrary<T> elements) {
    return elements.map(element -> new Travelling<>(coder, element));
  }

  @Provide
  Arbitrary<Travelling<?>> elements() {
    Arbitrary<StateExtent> extent =
        Combinators.combine(NAME, DTYPE, INDEX, INDEX, COUNT).as(StateExtent::new);
    Arbitrary<RankSlice> rankSlice =
        Combinators.combine(INDEX, COUNT, COUNT, extent.list().ofMaxSize(4)).as(RankSlice::new);
    Arbitrary<ParameterTensor.Piece> piece =
        Combinators.combine(COUNT, COUNT, INDEX, DTYPE, ADDRESS).as(ParameterTensor.Piece::new);
    Arbitrary<Map<String, List<ParameterTensor.Piece>>> states =
        Arbitraries.maps(NAME, piece.list().ofMaxSize(3)).ofMaxSize(3);
    Arbitrary<ParameterTensor> tensor =
        Combinators.combine(PARAM_ID, COUNT, states, states).as(ParameterTensor::new);
    Arbitrary<CastCheck> cast =
        Combinators.combine(
                NAME,
                COUNT,
                DTYPE,
                DTYPE,
                ADDRESS,
                Combinators.combine(NAME, INDEX, INDEX).as(CastCheck.Copies::new).injectNull(0.5))
            .as(CastCheck::new);
    Arbitrary<TensorRun> run = Combinators.combine(PARAM_ID, NAME, COUNT).as(TensorRun::new);
    Arbitrary<Conversion> conversion = Combinators.combine(DTYPE, DTYPE).as(Conversion::new);
    Arbitrary<Rows> rows =
        Combinators.combine(
                Arbitraries.of(1, 2, 4, 8),
                COUNT,
                Combinators.combine(COUNT, COUNT, COUNT, COUNT)
                    .as(Rows.Step::new)
                    .list()
                    .ofMaxSize(3),
                COUNT)
            .as(Rows::new);
    Arbitrary<SliceCopy> copy =
        Combinators.combine(
                ADDRESS.injectNull(0.3),
                ADDRESS,
                COUNT,
                Arbitraries.of(true, false),
                Arbitraries.longs(),
                Arbitraries.of(1, 2, 4, 8),
                cast.injectNull(0.5),
                run.injectNull(0.5))
            .flatAs(
                (source, target, bytes, proves, fill, fillBytes, claim, part) ->
                    Combinators.combine(conversion.injectNull(0.5), rows.injectNull(0.5))
                        .as(
                            (c, r) ->
                                new SliceCopy(
                                    source, target, bytes, proves, fill, fillBytes, claim, part, c,
                                    r)));
    Arbitrary<SliceCrc> crc =
        Combinators.combine(COUNT, COUNT, COUNT, Arbitraries.integers())
            .as((at, bytes, gaps, crc32) -> new SliceCrc(at, bytes, bytes + gaps, crc32));
    Arbitrary<TensorId> tensorId = Combinators.combine(PARAM_ID, NAME).as(TensorId::new);
    Arbitrary<Outcome> outcome =
        Arbitraries.oneOf(
            INDEX.map(Outcome.Proven::new),
            INDEX.map(Outcome.Finished::new),
            Combinators.combine(
                    INDEX,
                    Arbitraries.integers().list().ofMaxSize(5),
                    Combinators.combine(INDEX, COUNT).as(Outcome.Mismatch::new).list().ofMaxSize(3))
                .as(Outcome.Digests::new));
    return Arbitraries.oneOf(
        List.of(
            of(Coders.PARAM_ID, PARAM_ID),
            of(Coders.RANK_SLICE, rankSlice),
            of(Coders.PARAMETER_TENSOR, tensor),
            of(
                Coders.PART_ID,
                Combinators.combine(Arbitraries.of(true, false), INDEX, INDEX).as(PartId::new)),
            of(Coders.SLICE_COPY, copy),
            of(Coders.SLICE_COPY, ADDRESS.map(at -> SliceCopy.readOnly(at, 7))),
            of(Coders.SLICE_CRC, crc),
            of(
                Coders.PLAN_ITEM,
                Combinators.combine(Arbitraries.of(PlanItem.Kind.class), INDEX, INDEX)
                    .as(PlanItem::new)),
            of(
                Keyed.coder(Coders.PARAM_ID),
                Combinators.combine(NAME, PARAM_ID).as(Keyed<ParamId>::new)),
            of(Coders.ENTRY_CRC, Combinators.combine(INDEX, INDEX, crc).as(EntryCrc::new)),
            of(Coders.TENSOR_ID, tensorId),
            of(
                Coders.TENSOR_CRC,
                Combinators.combine(INDEX, NAME, crc, COUNT.map(c -> c - 1)).as(TensorCrc::new)),
            of(Coders.OUTCOME, outcome)));
  }

  @Property
  void anElementIsTheSameAfterTravelling(@ForAll("elements") Travelling<?> travelling)
      throws Exception {
    assertThat(travelling.afterwards()).isEqualTo(travelling.element());
  }

  @Property
  void equalElementsHaveEqualBytes(@ForAll("elements") Travelling<?> travelling) throws Exception {
    travelling.coder().verifyDeterministic();
    assertThat(encode(travelling.coder(), travelling.afterwards())).isEqualTo(travelling.encoded());
  }

  @SuppressWarnings("unchecked") // what a coder decoded is of its type
  private static <T> byte[] encode(Coder<T> coder, Object element) throws Exception {
    return CoderUtils.encodeToByteArray(coder, (T) element);
  }
}
