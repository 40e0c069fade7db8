/** JSON text, read strictly. */
package io.github.reshard.checkpoint.json;
