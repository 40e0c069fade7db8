/** ZeRO-3: each parameter cut into one piece a rank, the pieces gathered in sub-groups. */
package io.github.reshard.checkpoint.zero3;
