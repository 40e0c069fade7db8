package io.github.reshard.transforms;

import java.io.Serializable;

/**
 * What the commit step has to know of how a job was asked for.
 *
 * @param trustMasters whether the job goes on when master weights do not give the module's weights
 * @param startMillis when it began, in milliseconds since 1970
 */
public record JobConfig(boolean trustMasters, long startMillis) implements Serializable {}
