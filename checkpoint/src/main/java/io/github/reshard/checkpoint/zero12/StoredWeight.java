package io.github.reshard.checkpoint.zero12;

import io.github.reshard.checkpoint.deepspeed.DeepSpeedReading;
import io.github.reshard.checkpoint.state.Address;
import io.github.reshard.checkpoint.torch.DType;
import io.github.reshard.checkpoint.torch.PickledValue;
import io.github.reshard.checkpoint.torch.TensorNode;
import io.github.reshard.checkpoint.torch.TorchFile;
import java.util.Arrays;
import java.util.List;

/**
 * A weight of the model in a file of the source.
 *
 * @param where it is, for messages
 * @param dtype the type of an element
 * @param shape elements per dimension
 * @param address where its elements begin, which follow one another in C order
 */
record StoredWeight(String where, DType dtype, List<Long> shape, Address address) {
  /**
   * @throws io.github.reshard.checkpoint.RefusedException if its elements do not follow one another
   */
  static StoredWeight of(DeepSpeedReading reading, int source, TorchFile file, PickledValue value) {
    TensorNode tensor = value.tensor();
    if (!tensor.isContiguous()) {
      throw value.refused("expected a contiguous weight, as save_checkpoint writes it.");
    }
    return new StoredWeight(
        value.where(),
        tensor.dtype(),
        Arrays.stream(tensor.shape()).boxed().toList(),
        reading.address(source, file, value.where(), tensor));
  }

  long elements() {
    return shape.stream().reduce(1L, Math::multiplyExact);
  }
}
