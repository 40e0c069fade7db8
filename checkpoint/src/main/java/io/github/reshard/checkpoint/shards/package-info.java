/** The shards of an optimizer that people saved themselves, one {@code state_dict()} a rank. */
package io.github.reshard.checkpoint.shards;
