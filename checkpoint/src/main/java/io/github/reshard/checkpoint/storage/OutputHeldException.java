package io.github.reshard.checkpoint.storage;

import io.github.reshard.checkpoint.OutputException;

/** Another run is writing to the output. */
public final class OutputHeldException extends OutputException {
  private static final long serialVersionUID = 1L;

  private final String holder;

  /**
   * @param output what is held
   * @param holder who holds it
   */
  public OutputHeldException(String output, String holder) {
    super(
        output,
        "another run is writing to it: %s. Wait for that one, or name another --output."
            .formatted(holder));
    this.holder = holder;
  }

  /** Who holds it, for people. */
  public String holder() {
    return holder;
  }
}
