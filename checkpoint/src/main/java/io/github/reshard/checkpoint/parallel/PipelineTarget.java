package io.github.reshard.checkpoint.parallel;

import java.util.Optional;

/**
 * The pipeline of the run that will load.
 *
 * @param stages how many
 * @param method how its layers are divided, if the user said it
 * @param script what the user said of the layers
 */
public record PipelineTarget(
    int stages, Optional<PipelineLayers.Method> method, PipelineScript script) {}
