package io.github.reshard.transforms;

import io.github.reshard.checkpoint.state.ParamId;
import java.io.Serializable;

/**
 * A full tensor: one state of one parameter.
 *
 * @param parameter the parameter
 * @param state the state
 */
record TensorId(ParamId parameter, String state) implements Serializable {}
