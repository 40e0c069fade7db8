package io.github.reshard.pipeline;

/**
 * There is no report, because the runner was asked to write the job down instead of running it, as
 * Dataflow is for templates ({@code --templateLocation}). Whoever runs the job finds everything
 * planned, and the output ready for it.
 */
public final class JobStagedException extends RuntimeException {
  private static final long serialVersionUID = 1L;

  JobStagedException(Throwable cause) {
    super("the job was written down and not run; whoever asked for the template runs it", cause);
  }
}
