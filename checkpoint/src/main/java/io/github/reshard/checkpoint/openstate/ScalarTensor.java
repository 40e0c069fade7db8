package io.github.reshard.checkpoint.openstate;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.pickle.PyInstance;
import io.github.reshard.checkpoint.torch.DType;
import io.github.reshard.checkpoint.torch.ElementText;
import io.github.reshard.checkpoint.torch.TensorNode;
import java.math.BigDecimal;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.util.HexFormat;
import java.util.List;
import java.util.Map;
import java.util.Optional;

/**
 * A tensor of one element, {@code {"!tensor": [TYPE, SHAPE, BYTES]}}, such as the step of an
 * optimizer of torch.optim.
 *
 * @param dtype the type of the element
 * @param shape as many dimensions of 1 as it has
 * @param bytes of the element, little endian
 */
@SuppressWarnings("ArrayRecordComponent") // Never compared.
record ScalarTensor(DType dtype, long[] shape, byte[] bytes) {
  private static final int MOST_DIMENSIONS = 8;

  /**
   * The tensor that JSON says, if it says one.
   *
   * @param where it does, for messages
   * @throws RefusedException if it says one that is none
   */
  static Optional<ScalarTensor> of(String where, Object json) {
    if (!(json instanceof Map<?, ?> map) || !map.containsKey(OpenFormat.SCALAR)) {
      return Optional.empty();
    }
    if (map.size() == 1
        && map.get(OpenFormat.SCALAR) instanceof List<?> parts
        && parts.size() == 3
        && parts.get(0) instanceof String type
        && parts.get(1) instanceof List<?> dimensions
        && dimensions.size() <= MOST_DIMENSIONS
        && dimensions.stream()
            .allMatch(
                one -> one instanceof BigDecimal number && number.compareTo(BigDecimal.ONE) == 0)
        && parts.get(2) instanceof String digits
        && digits.matches("([0-9a-f]{2})+")) {
      Optional<DType> dtype = DType.ofTorchName(type);
      if (dtype.isPresent() && digits.length() == 2 * dtype.get().bytes()) {
        long[] shape = dimensions.stream().mapToLong(one -> 1).toArray();
        return Optional.of(new ScalarTensor(dtype.get(), shape, HexFormat.of().parseHex(digits)));
      }
    }
    throw new RefusedException(
        where,
        "expected {\"!tensor\": [type, shape, hexadecimal bytes]} of one element, found %s."
            .formatted(json));
  }

  /** The element, if it is a number. */
  double number(String where) {
    try {
      return Double.parseDouble(
          ElementText.of(dtype, ByteBuffer.wrap(bytes).order(ByteOrder.LITTLE_ENDIAN), 0));
    } catch (NumberFormatException e) {
      throw new RefusedException(
          where, "expected a number, found a tensor of %s.".formatted(dtype.torchName()), e);
    }
  }

  /**
   * The tensor as a pickle has it.
   *
   * @param key of its storage
   */
  PyInstance tensor(String key) {
    return TensorNode.create(dtype, key, false, shape);
  }
}
