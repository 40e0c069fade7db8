package io.github.reshard.checkpoint.pickle;

/**
 * A pickle as it was read.
 *
 * @param protocol the protocol that its {@code PROTO} opcode names, 0 without one
 * @param root the object
 */
public record Pickle(int protocol, PyObject root) {}
