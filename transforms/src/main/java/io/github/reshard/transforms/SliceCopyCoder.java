package io.github.reshard.transforms;

import io.github.reshard.checkpoint.plan.CastCheck;
import io.github.reshard.checkpoint.plan.Conversion;
import io.github.reshard.checkpoint.plan.Rows;
import io.github.reshard.checkpoint.plan.SliceCopy;
import io.github.reshard.checkpoint.plan.TensorRun;
import io.github.reshard.checkpoint.state.Address;
import io.github.reshard.checkpoint.torch.DType;
import java.io.DataInputStream;
import java.io.DataOutputStream;
import java.io.IOException;
import java.util.ArrayList;
import java.util.List;

/** What moves is most of what is shuffled: absent components take no bytes. */
final class SliceCopyCoder extends RecordCoder<SliceCopy> {
  private static final long serialVersionUID = 1L;
  private static final int SOURCE = 1;
  private static final int TARGET = 2;
  private static final int PROVES = 4;
  private static final int CAST = 8;
  private static final int TENSOR = 16;
  private static final int CONVERSION = 32;
  private static final int ROWS = 64;

  @Override
  void write(SliceCopy slice, DataOutputStream out) throws IOException {
    out.writeByte(
        (slice.source() == null ? 0 : SOURCE)
            | (slice.target() == null ? 0 : TARGET)
            | (slice.proves() ? PROVES : 0)
            | (slice.cast() == null ? 0 : CAST)
            | (slice.tensor() == null ? 0 : TENSOR)
            | (slice.conversion() == null ? 0 : CONVERSION)
            | (slice.rows() == null ? 0 : ROWS));
    if (slice.source() != null) {
      writeAddress(slice.source(), out);
    }
    if (slice.target() != null) {
      writeAddress(slice.target(), out);
    }
    writeLong(slice.bytes(), out);
    out.writeLong(slice.fill());
    out.writeByte(slice.fillBytes());
    if (slice.cast() != null) {
      CastCheck cast = slice.cast();
      out.writeUTF(cast.parameter());
      writeLong(cast.start(), out);
      out.writeUTF(cast.master().name());
      out.writeUTF(cast.module().name());
      writeAddress(cast.weights(), out);
      out.writeBoolean(cast.copies() != null);
      if (cast.copies() != null) {
        out.writeUTF(cast.copies().state());
        writeInt(cast.copies().rank(), out);
        writeInt(cast.copies().firstRank(), out);
      }
    }
    if (slice.tensor() != null) {
      Coders.PARAM_ID.encode(slice.tensor().parameter(), out);
      out.writeUTF(slice.tensor().state());
      writeLong(slice.tensor().offset(), out);
    }
    if (slice.conversion() != null) {
      out.writeUTF(slice.conversion().from().name());
      out.writeUTF(slice.conversion().to().name());
    }
    if (slice.rows() != null) {
      writeRows(slice.rows(), out);
    }
  }

  private static void writeRows(Rows rows, DataOutputStream out) throws IOException {
    writeInt(rows.width(), out);
    writeLong(rows.length(), out);
    writeLong(rows.first(), out);
    writeInt(rows.steps().size(), out);
    for (Rows.Step step : rows.steps()) {
      writeLong(step.count(), out);
      writeLong(step.source(), out);
      writeLong(step.target(), out);
      writeLong(step.tensor(), out);
    }
  }

  private static Rows readRows(DataInputStream in) throws IOException {
    int width = readInt(in);
    long length = readLong(in);
    long first = readLong(in);
    int count = readInt(in);
    List<Rows.Step> steps = new ArrayList<>(count);
    for (int i = 0; i < count; i++) {
      steps.add(new Rows.Step(readLong(in), readLong(in), readLong(in), readLong(in)));
    }
    return new Rows(width, length, steps, first);
  }

  @Override
  SliceCopy read(DataInputStream in) throws IOException {
    int flags = in.readByte();
    Address source = (flags & SOURCE) == 0 ? null : readAddress(in);
    Address target = (flags & TARGET) == 0 ? null : readAddress(in);
    long bytes = readLong(in);
    long fill = in.readLong();
    int fillBytes = in.readByte();
    CastCheck cast =
        (flags & CAST) == 0
            ? null
            : new CastCheck(
                readName(in),
                readLong(in),
                DType.valueOf(readName(in)),
                DType.valueOf(readName(in)),
                readAddress(in),
                in.readBoolean()
                    ? new CastCheck.Copies(readName(in), readInt(in), readInt(in))
                    : null);
    TensorRun tensor =
        (flags & TENSOR) == 0
            ? null
            : new TensorRun(Coders.PARAM_ID.decode(in), readName(in), readLong(in));
    Conversion conversion =
        (flags & CONVERSION) == 0
            ? null
            : new Conversion(DType.valueOf(readName(in)), DType.valueOf(readName(in)));
    Rows rows = (flags & ROWS) == 0 ? null : readRows(in);
    return new SliceCopy(
        source,
        target,
        bytes,
        (flags & PROVES) != 0,
        fill,
        fillBytes,
        cast,
        tensor,
        conversion,
        rows);
  }
}
