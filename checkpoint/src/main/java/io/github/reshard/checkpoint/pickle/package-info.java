/**
 * Python pickles as a symbolic object graph: read without executing anything, written as CPython
 * writes them.
 */
package io.github.reshard.checkpoint.pickle;
