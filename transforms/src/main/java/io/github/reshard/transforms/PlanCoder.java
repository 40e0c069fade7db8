package io.github.reshard.transforms;

import io.github.reshard.checkpoint.plan.ReshardPlan;
import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.ObjectInputStream;
import java.io.ObjectOutputStream;
import java.io.OutputStream;
import java.util.zip.Deflater;
import java.util.zip.DeflaterOutputStream;
import java.util.zip.InflaterInputStream;
import org.apache.beam.sdk.coders.ByteArrayCoder;
import org.apache.beam.sdk.coders.CoderException;
import org.apache.beam.sdk.coders.CustomCoder;

/** A plan, compressed: it says the same few names again and again. */
public final class PlanCoder extends CustomCoder<ReshardPlan> {
  private static final long serialVersionUID = 1L;
  private static final PlanCoder INSTANCE = new PlanCoder();

  private PlanCoder() {}

  /** The only one. */
  public static PlanCoder of() {
    return INSTANCE;
  }

  @Override
  public void encode(ReshardPlan plan, OutputStream out) throws IOException {
    ByteArrayOutputStream bytes = new ByteArrayOutputStream();
    Deflater fast = new Deflater(Deflater.BEST_SPEED);
    try (ObjectOutputStream objects =
        new ObjectOutputStream(new DeflaterOutputStream(bytes, fast, 1 << 16))) {
      objects.writeObject(plan);
    } finally {
      fast.end();
    }
    ByteArrayCoder.of().encode(bytes.toByteArray(), out);
  }

  @Override
  public ReshardPlan decode(InputStream in) throws IOException {
    byte[] bytes = ByteArrayCoder.of().decode(in);
    try (ObjectInputStream objects =
        new ObjectInputStream(new InflaterInputStream(new ByteArrayInputStream(bytes)))) {
      return (ReshardPlan) objects.readObject();
    } catch (ClassNotFoundException e) {
      throw new CoderException("a plan of another version of this program", e);
    }
  }

  @Override
  public void verifyDeterministic() throws NonDeterministicException {
    throw new NonDeterministicException(this, "a plan is no key");
  }
}
