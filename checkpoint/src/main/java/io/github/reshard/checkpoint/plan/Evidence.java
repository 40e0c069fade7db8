package io.github.reshard.checkpoint.plan;

import java.io.Serializable;
import java.util.List;

/**
 * Something of the source that its metadata proves, and of which of its files.
 *
 * @param claim what is proven, in words that follow "that"
 * @param by what proves it
 * @param files of how many files
 * @param without names of the files of which it could not be proven
 * @param whyNot what these do not have; empty if there are none
 */
public record Evidence(String claim, String by, int files, List<String> without, String whyNot)
    implements Serializable {
  public Evidence {
    without = List.copyOf(without);
  }

  /** Proven of all files. */
  public static Evidence ofAll(String claim, String by, int files) {
    return new Evidence(claim, by, files, List.of(), "");
  }

  private static final String IDENTITY = "each file is the one that its name says";

  /** Whether it is what {@link #identity} says. */
  public boolean isOfIdentity() {
    return claim.equals(IDENTITY);
  }

  /** That each file is of the rank, layer or expert, and of the kind, that its name says. */
  public static Evidence identity(String by, int files, List<String> without) {
    return new Evidence(
        IDENTITY,
        by,
        files,
        without,
        without.isEmpty() ? "" : "the names of their archives do not tell it");
  }
}
