package io.github.reshard.checkpoint.zero12;

import io.github.reshard.checkpoint.state.ParameterSet;

/**
 * A param group of a file of ZeRO-1 or 2 that is read.
 *
 * @param set the set of parameters that has it
 * @param group the group in that set's layout
 */
public record FileGroup(ParameterSet set, int group) {
  FlatLayout source() {
    return FlatLayout.of(set.layout());
  }
}
