package io.github.reshard.checkpoint.pickle;

/**
 * A node of a pickled object graph. Nothing is ever executed: a callable is only its name, and an
 * object made by one is a {@link PyInstance} that remembers how it was made.
 *
 * <p>Identity matters: two references to one Python object are two references to one node here, and
 * are written as one object again. Nodes therefore do not override {@code equals}; compare meaning
 * with {@link PyEquality}.
 */
public sealed interface PyObject
    permits PyNone,
        PyBool,
        PyInt,
        PyFloat,
        PyStr,
        PyBytes,
        PyTuple,
        PyList,
        PyDict,
        PySet,
        PyGlobal,
        PyInstance,
        PyPersistentId {}
