package io.github.reshard.transforms;

import static io.github.reshard.transforms.RecordCoder.readInt;
import static io.github.reshard.transforms.RecordCoder.readLong;
import static io.github.reshard.transforms.RecordCoder.writeInt;
import static io.github.reshard.transforms.RecordCoder.writeLong;

import io.github.reshard.checkpoint.copy.SliceCrc;
import io.github.reshard.checkpoint.plan.ParameterTensor;
import io.github.reshard.checkpoint.plan.PartId;
import io.github.reshard.checkpoint.plan.RankSlice;
import io.github.reshard.checkpoint.plan.SliceCopy;
import io.github.reshard.checkpoint.plan.StateExtent;
import io.github.reshard.checkpoint.state.ParamId;
import io.github.reshard.checkpoint.torch.DType;
import java.io.DataInputStream;
import java.io.DataOutputStream;
import java.io.IOException;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.apache.beam.sdk.coders.Coder;

/** How the elements travel between workers. */
final class Coders {
  static final Coder<ParamId> PARAM_ID = new ParamIdCoder();
  static final Coder<RankSlice> RANK_SLICE = new RankSliceCoder();
  static final Coder<ParameterTensor> PARAMETER_TENSOR = new ParameterTensorCoder();
  static final Coder<PartId> PART_ID = new PartIdCoder();
  static final Coder<SliceCopy> SLICE_COPY = new SliceCopyCoder();
  static final Coder<SliceCrc> SLICE_CRC = new SliceCrcCoder();
  static final Coder<PlanItem> PLAN_ITEM = new PlanItemCoder();
  static final Coder<EntryCrc> ENTRY_CRC = new EntryCrcCoder();
  static final Coder<TensorCrc> TENSOR_CRC = new TensorCrcCoder();
  static final Coder<TensorId> TENSOR_ID = new TensorIdCoder();
  static final Coder<Outcome> OUTCOME = new OutcomeCoder();

  private Coders() {}

  private static final class ParamIdCoder extends RecordCoder<ParamId> {
    private static final long serialVersionUID = 1L;

    @Override
    void write(ParamId id, DataOutputStream out) throws IOException {
      out.writeUTF(id.checkpoint());
      writeInt(id.mpRank(), out);
      out.writeUTF(id.name());
    }

    @Override
    ParamId read(DataInputStream in) throws IOException {
      return new ParamId(readName(in), readInt(in), readName(in));
    }
  }

  private static final class RankSliceCoder extends RecordCoder<RankSlice> {
    private static final long serialVersionUID = 1L;

    @Override
    void write(RankSlice slice, DataOutputStream out) throws IOException {
      writeInt(slice.rank(), out);
      writeLong(slice.start(), out);
      writeLong(slice.elements(), out);
      writeInt(slice.states().size(), out);
      for (StateExtent state : slice.states()) {
        out.writeUTF(state.state());
        out.writeUTF(state.dtype().name());
        writeInt(state.file(), out);
        writeInt(state.entry(), out);
        writeLong(state.offset(), out);
      }
    }

    @Override
    RankSlice read(DataInputStream in) throws IOException {
      int rank = readInt(in);
      long start = readLong(in);
      long elements = readLong(in);
      int count = readInt(in);
      List<StateExtent> states = new ArrayList<>(count);
      for (int i = 0; i < count; i++) {
        states.add(
            new StateExtent(
                readName(in), DType.valueOf(readName(in)), readInt(in), readInt(in), readLong(in)));
      }
      return new RankSlice(rank, start, elements, states);
    }
  }

  private static final class ParameterTensorCoder extends RecordCoder<ParameterTensor> {
    private static final long serialVersionUID = 1L;

    @Override
    void write(ParameterTensor tensor, DataOutputStream out) throws IOException {
      PARAM_ID.encode(tensor.id(), out);
      writeLong(tensor.elements(), out);
      writePieces(tensor.states(), out);
      writePieces(tensor.copies(), out);
    }

    private static void writePieces(
        Map<String, List<ParameterTensor.Piece>> states, DataOutputStream out) throws IOException {
      writeInt(states.size(), out);
      for (Map.Entry<String, List<ParameterTensor.Piece>> state : states.entrySet()) {
        out.writeUTF(state.getKey());
        writeInt(state.getValue().size(), out);
        for (ParameterTensor.Piece piece : state.getValue()) {
          writeLong(piece.start(), out);
          writeLong(piece.elements(), out);
          writeInt(piece.rank(), out);
          out.writeUTF(piece.dtype().name());
          writeAddress(piece.address(), out);
        }
      }
    }

    @Override
    ParameterTensor read(DataInputStream in) throws IOException {
      ParamId id = PARAM_ID.decode(in);
      long elements = readLong(in);
      return new ParameterTensor(id, elements, readPieces(in), readPieces(in));
    }

    private static Map<String, List<ParameterTensor.Piece>> readPieces(DataInputStream in)
        throws IOException {
      int count = readInt(in);
      Map<String, List<ParameterTensor.Piece>> states = new LinkedHashMap<>();
      for (int s = 0; s < count; s++) {
        String state = readName(in);
        int pieces = readInt(in);
        List<ParameterTensor.Piece> list = new ArrayList<>(pieces);
        for (int p = 0; p < pieces; p++) {
          list.add(
              new ParameterTensor.Piece(
                  readLong(in),
                  readLong(in),
                  readInt(in),
                  DType.valueOf(readName(in)),
                  readAddress(in)));
        }
        states.put(state, list);
      }
      return states;
    }
  }

  private static final class PartIdCoder extends RecordCoder<PartId> {
    private static final long serialVersionUID = 1L;

    @Override
    void write(PartId part, DataOutputStream out) throws IOException {
      out.writeBoolean(part.source());
      writeInt(part.part(), out);
      writeInt(part.file(), out);
    }

    @Override
    PartId read(DataInputStream in) throws IOException {
      return new PartId(in.readBoolean(), readInt(in), readInt(in));
    }
  }

  private static final class SliceCrcCoder extends RecordCoder<SliceCrc> {
    private static final long serialVersionUID = 1L;

    @Override
    void write(SliceCrc run, DataOutputStream out) throws IOException {
      writeLong(run.offset(), out);
      writeLong(run.bytes(), out);
      writeLong(run.span() - run.bytes(), out);
      out.writeInt(run.crc32());
    }

    @Override
    SliceCrc read(DataInputStream in) throws IOException {
      long offset = readLong(in);
      long bytes = readLong(in);
      return new SliceCrc(offset, bytes, bytes + readLong(in), in.readInt());
    }
  }

  private static final class EntryCrcCoder extends RecordCoder<EntryCrc> {
    private static final long serialVersionUID = 1L;

    @Override
    void write(EntryCrc run, DataOutputStream out) throws IOException {
      writeInt(run.file(), out);
      writeInt(run.entry(), out);
      SLICE_CRC.encode(run.crc(), out);
    }

    @Override
    EntryCrc read(DataInputStream in) throws IOException {
      return new EntryCrc(readInt(in), readInt(in), SLICE_CRC.decode(in));
    }
  }

  @SuppressWarnings("EnumOrdinal") // of one version of this program, on all workers
  private static final class PlanItemCoder extends RecordCoder<PlanItem> {
    private static final long serialVersionUID = 1L;
    private static final PlanItem.Kind[] KINDS = PlanItem.Kind.values();

    @Override
    void write(PlanItem item, DataOutputStream out) throws IOException {
      out.writeByte(item.kind().ordinal());
      writeInt(item.model(), out);
      writeInt(item.number(), out);
    }

    @Override
    PlanItem read(DataInputStream in) throws IOException {
      return new PlanItem(KINDS[in.readByte()], readInt(in), readInt(in));
    }
  }

  private static final class TensorCrcCoder extends RecordCoder<TensorCrc> {
    private static final long serialVersionUID = 1L;

    @Override
    void write(TensorCrc run, DataOutputStream out) throws IOException {
      writeInt(run.parameter(), out);
      out.writeUTF(run.state());
      SLICE_CRC.encode(run.crc(), out);
      writeLong(run.mismatch() + 1, out);
    }

    @Override
    TensorCrc read(DataInputStream in) throws IOException {
      return new TensorCrc(readInt(in), readName(in), SLICE_CRC.decode(in), readLong(in) - 1);
    }
  }

  private static final class TensorIdCoder extends RecordCoder<TensorId> {
    private static final long serialVersionUID = 1L;

    @Override
    void write(TensorId tensor, DataOutputStream out) throws IOException {
      PARAM_ID.encode(tensor.parameter(), out);
      out.writeUTF(tensor.state());
    }

    @Override
    TensorId read(DataInputStream in) throws IOException {
      return new TensorId(PARAM_ID.decode(in), readName(in));
    }
  }

  private static final class OutcomeCoder extends RecordCoder<Outcome> {
    private static final long serialVersionUID = 1L;
    private static final int PROVEN = 0;
    private static final int FINISHED = 1;
    private static final int DIGESTS = 2;

    @Override
    void write(Outcome outcome, DataOutputStream out) throws IOException {
      if (outcome instanceof Outcome.Proven proven) {
        out.writeByte(PROVEN);
        writeInt(proven.file(), out);
      } else if (outcome instanceof Outcome.Finished finished) {
        out.writeByte(FINISHED);
        writeInt(finished.file(), out);
      } else if (outcome instanceof Outcome.Digests digests) {
        out.writeByte(DIGESTS);
        writeInt(digests.key(), out);
        writeInt(digests.crc32s().size(), out);
        for (int crc32 : digests.crc32s()) {
          out.writeInt(crc32);
        }
        writeInt(digests.mismatches().size(), out);
        for (Outcome.Mismatch mismatch : digests.mismatches()) {
          writeInt(mismatch.parameter(), out);
          writeLong(mismatch.element(), out);
        }
      }
    }

    @Override
    Outcome read(DataInputStream in) throws IOException {
      int kind = in.readByte();
      return switch (kind) {
        case PROVEN -> new Outcome.Proven(readInt(in));
        case FINISHED -> new Outcome.Finished(readInt(in));
        case DIGESTS -> {
          int key = readInt(in);
          int count = readInt(in);
          List<Integer> crc32s = new ArrayList<>(count);
          for (int i = 0; i < count; i++) {
            crc32s.add(in.readInt());
          }
          int mismatched = readInt(in);
          List<Outcome.Mismatch> mismatches = new ArrayList<>(mismatched);
          for (int i = 0; i < mismatched; i++) {
            mismatches.add(new Outcome.Mismatch(readInt(in), readLong(in)));
          }
          yield new Outcome.Digests(key, crc32s, mismatches);
        }
        default -> throw new IOException("no outcome has the number " + kind);
      };
    }
  }
}
