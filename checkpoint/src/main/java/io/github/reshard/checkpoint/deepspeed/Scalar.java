package io.github.reshard.checkpoint.deepspeed;

import io.github.reshard.checkpoint.pickle.PickleWriter;
import io.github.reshard.checkpoint.pickle.PyFloat;
import io.github.reshard.checkpoint.pickle.PyInt;
import io.github.reshard.checkpoint.pickle.PyObject;
import io.github.reshard.checkpoint.torch.DType;
import io.github.reshard.checkpoint.torch.ElementText;
import io.github.reshard.checkpoint.torch.PickledValue;
import java.nio.ByteBuffer;
import java.util.Arrays;
import java.util.Objects;
import java.util.OptionalDouble;

/** What an optimizer's state says once for all elements of a parameter, as its {@code step}. */
public sealed interface Scalar {
  /** The number, if it is one. */
  OptionalDouble number();

  /** What it is, in words. */
  String type();

  /** Whether the other one can stand in its place. */
  default boolean isOfTypeOf(Scalar other) {
    return other.getClass() == getClass() && other.type().equals(type());
  }

  /** A tensor of one element. */
  final class OfTensor implements Scalar {
    private final DType dtype;
    private final byte[] element;

    /**
     * @param dtype the type of the element
     * @param element its bytes, little endian
     */
    public OfTensor(DType dtype, byte[] element) {
      this.dtype = dtype;
      this.element = element.clone();
    }

    /** The type of the element. */
    public DType dtype() {
      return dtype;
    }

    /** The bytes of the element, little endian. */
    public byte[] element() {
      return element.clone();
    }

    @Override
    public OptionalDouble number() {
      try {
        return OptionalDouble.of(Double.parseDouble(toString()));
      } catch (NumberFormatException notPlain) {
        return OptionalDouble.empty();
      }
    }

    @Override
    public String type() {
      return "a tensor of one " + dtype.torchName();
    }

    @Override
    public boolean equals(Object other) {
      return other instanceof OfTensor tensor
          && tensor.dtype == dtype
          && Arrays.equals(tensor.element, element);
    }

    @Override
    public int hashCode() {
      return Objects.hash(dtype, Arrays.hashCode(element));
    }

    @Override
    public String toString() {
      return ElementText.of(dtype, ByteBuffer.wrap(element), 0);
    }
  }

  /** A number or another plain object. */
  final class OfValue implements Scalar {
    private static final int PROTOCOL = 2;
    private final PyObject value;

    private OfValue(PyObject value) {
      this.value = value;
    }

    /** One without tensors. */
    public static OfValue of(PyObject value) {
      return new OfValue(value);
    }

    /** The object. */
    public PyObject value() {
      return value;
    }

    @Override
    public OptionalDouble number() {
      return value instanceof PyInt whole
          ? OptionalDouble.of(whole.value().doubleValue())
          : value instanceof PyFloat number
              ? OptionalDouble.of(number.value())
              : OptionalDouble.empty();
    }

    @Override
    public String type() {
      return value instanceof PyInt || value instanceof PyFloat ? "a number" : "an object";
    }

    private byte[] pickle() {
      return PickleWriter.write(value, PROTOCOL);
    }

    @Override
    public boolean equals(Object other) {
      return other instanceof OfValue object && Arrays.equals(object.pickle(), pickle());
    }

    @Override
    public int hashCode() {
      return Arrays.hashCode(pickle());
    }

    @Override
    public String toString() {
      return new PickledValue("", "", value).describe();
    }
  }
}
