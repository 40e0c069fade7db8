package io.github.reshard.checkpoint.parallel;

/** A rule and what was saved do not fit; the message says how, a sentence without its end. */
final class Unfit extends Exception {
  private static final long serialVersionUID = 1L;

  Unfit(String problem) {
    super(problem);
  }
}
