package io.github.reshard.transforms;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.plan.ParameterTensor.Piece;
import io.github.reshard.checkpoint.state.Address;
import io.github.reshard.checkpoint.storage.RangedFile;
import io.github.reshard.checkpoint.torch.ElementText;
import io.github.reshard.transforms.CompareTensors.Compared;
import java.io.EOFException;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.util.List;
import java.util.zip.CRC32;
import org.apache.beam.sdk.metrics.Counter;
import org.apache.beam.sdk.metrics.Metrics;
import org.apache.beam.sdk.transforms.DoFn;
import org.apache.beam.sdk.values.KV;

/** Reads a run of elements from both checkpoints and finds the first that differs. */
final class CompareRun extends DoFn<RunPair, KV<TensorId, Compared>> {
  private static final long serialVersionUID = 1L;
  private static final int BUFFER_BYTES = 1 << 20;
  private final PlannedReshard.Finder finderA;
  private final PlannedReshard.Finder finderB;
  private final List<String> keys;
  private final Counter bytesRead = Metrics.counter(Counters.NAMESPACE, Counters.BYTES_READ);
  private transient OpenFiles openA;
  private transient OpenFiles openB;
  private transient ByteBuffer bufferA;
  private transient ByteBuffer bufferB;

  CompareRun(Reshards reshards, List<String> keys) {
    this.finderA = new PlannedReshard.Finder(reshards);
    this.finderB = new PlannedReshard.Finder(reshards);
    this.keys = keys;
  }

  @Setup
  public void setUp() {
    openA = new OpenFiles();
    openB = new OpenFiles();
    bufferA = ByteBuffer.allocateDirect(BUFFER_BYTES);
    bufferB = ByteBuffer.allocateDirect(BUFFER_BYTES);
  }

  @ProcessElement
  public void process(@Element RunPair run, OutputReceiver<KV<TensorId, Compared>> out)
      throws IOException {
    PlannedReshard plannedA = finderA.find(keys.get(CompareTensors.A));
    PlannedReshard plannedB = finderB.find(keys.get(CompareTensors.B));
    CRC32 crcA = new CRC32();
    CRC32 crcB = new CRC32();
    int width = run.dtype().bytes();
    long bytes = run.elements() * width;
    long element = -1;
    String valueA = "";
    String valueB = "";
    for (long done = 0; done < bytes; ) {
      int length = (int) Math.min((long) BUFFER_BYTES / width * width, bytes - done);
      long from = run.start() + done / width;
      fill(bufferA, length, from, width, run.a(), plannedA, openA);
      fill(bufferB, length, from, width, run.b(), plannedB, openB);
      crcA.update(bufferA.duplicate());
      crcB.update(bufferB.duplicate());
      int mismatch = element < 0 ? bufferA.mismatch(bufferB) : -1;
      if (mismatch >= 0) {
        int at = mismatch / width * width;
        element = from + mismatch / width;
        valueA = ElementText.of(run.dtype(), bufferA, at);
        valueB = ElementText.of(run.dtype(), bufferB, at);
      }
      bytesRead.inc(2L * length);
      done += length;
    }
    out.output(
        KV.of(
            run.tensor(),
            new Compared(
                run.problem(),
                run.start() * width,
                bytes,
                (int) crcA.getValue(),
                (int) crcB.getValue(),
                element,
                valueA,
                valueB)));
  }

  /** Reads the elements from {@code start} on; afterwards the buffer holds them. */
  private static void fill(
      ByteBuffer buffer,
      int bytes,
      long start,
      int width,
      List<Piece> pieces,
      PlannedReshard planned,
      OpenFiles open)
      throws IOException {
    buffer.clear();
    long end = start + bytes / width;
    for (Piece piece : pieces) {
      long from = Math.max(start, piece.start());
      long to = Math.min(end, piece.start() + piece.elements());
      if (from < to) {
        Address address = piece.address().plus((from - piece.start()) * width);
        RangedFile file = open.open(planned, address.file());
        buffer.limit(buffer.position() + Math.toIntExact((to - from) * width));
        try {
          file.readFully(address.offset(), buffer);
        } catch (EOFException e) {
          throw new RefusedException(
              file.path(), "the file became shorter while it was being read.", e);
        }
      }
    }
    buffer.flip();
  }

  @FinishBundle
  public void finishBundle() throws IOException {
    openA.close();
    openB.close();
  }

  @Teardown
  public void tearDown() throws IOException {
    if (openA != null) {
      openA.close();
      openB.close();
    }
  }
}
