/**
 * What a ZeRO checkpoint is and how its bytes move when the number of ranks changes; no Beam, no
 * cloud.
 */
package io.github.reshard.checkpoint;
