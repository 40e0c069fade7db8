package io.github.reshard.transforms;

import io.github.reshard.checkpoint.state.Address;
import java.io.DataInputStream;
import java.io.DataOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import org.apache.beam.sdk.coders.AtomicCoder;
import org.apache.beam.sdk.util.VarInt;

/** A coder of a record: its components one after the other, so equal records have equal bytes. */
abstract class RecordCoder<T> extends AtomicCoder<T> {
  private static final long serialVersionUID = 1L;

  abstract void write(T value, DataOutputStream out) throws IOException;

  abstract T read(DataInputStream in) throws IOException;

  @Override
  public final void encode(T value, OutputStream stream) throws IOException {
    DataOutputStream out = new DataOutputStream(stream);
    write(value, out);
    out.flush();
  }

  @Override
  public final T decode(InputStream stream) throws IOException {
    return read(new DataInputStream(stream));
  }

  /** The encodings are one to one: a value with the same bytes is the same value. */
  @Override
  public boolean consistentWithEquals() {
    return true;
  }

  static void writeLong(long value, OutputStream out) throws IOException {
    VarInt.encode(value, out);
  }

  static long readLong(InputStream in) throws IOException {
    return VarInt.decodeLong(in);
  }

  /** For small numbers of which -1 is one. */
  static void writeInt(int value, OutputStream out) throws IOException {
    VarInt.encode(value + 1L, out);
  }

  static int readInt(InputStream in) throws IOException {
    return Math.toIntExact(VarInt.decodeLong(in) - 1);
  }

  /** Names are few and in many elements at a time. */
  static String readName(DataInputStream in) throws IOException {
    return in.readUTF().intern();
  }

  static void writeAddress(Address address, DataOutputStream out) throws IOException {
    writeInt(address.file(), out);
    writeInt(address.entry(), out);
    writeLong(address.offset(), out);
  }

  static Address readAddress(DataInputStream in) throws IOException {
    return new Address(readInt(in), readInt(in), readLong(in));
  }
}
