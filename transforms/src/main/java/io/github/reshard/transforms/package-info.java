/** Beam transforms that wire the steps of a job, and the elements that flow between them. */
package io.github.reshard.transforms;
