package io.github.reshard.checkpoint.weights;

import io.github.reshard.checkpoint.state.Address;
import io.github.reshard.checkpoint.state.LocalTensor;
import io.github.reshard.checkpoint.torch.DType;
import java.util.List;

/**
 * A tensor of the output, and what of the source it is made of.
 *
 * @param name its name in the module
 * @param origin where its elements come from
 * @param from the type of an element there
 * @param to the type of an element where it is written
 * @param shape elements per dimension
 */
record PlannedTensor(String name, Origin origin, DType from, DType to, List<Long> shape) {
  PlannedTensor {
    shape = List.copyOf(shape);
  }

  /** Where elements come from. */
  sealed interface Origin {
    /**
     * A state that ranks partition.
     *
     * @param model index into the source plan's models
     * @param parameter its index in that model
     * @param state the state
     */
    record State(int model, int parameter, String state) implements Origin {}

    /**
     * A tensor of a file.
     *
     * @param mpRank whose
     * @param address its first element
     */
    record Stored(int mpRank, Address address) implements Origin {}

    /**
     * What the files of all tensor-parallel ranks have of a tensor.
     *
     * @param addresses by rank, the first element of what it has
     * @param locals by rank, which part of the tensor that is
     */
    record Parts(List<Address> addresses, List<LocalTensor> locals) implements Origin {
      public Parts {
        addresses = List.copyOf(addresses);
        locals = List.copyOf(locals);
      }
    }
  }
}
