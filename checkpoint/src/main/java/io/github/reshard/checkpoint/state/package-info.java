/**
 * A training state, whatever format it is saved in: which parameters there are, which states each
 * has, and which rank holds which elements of them.
 */
package io.github.reshard.checkpoint.state;
