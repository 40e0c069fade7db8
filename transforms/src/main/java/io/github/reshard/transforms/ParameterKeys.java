package io.github.reshard.transforms;

/**
 * The keys under which what concerns a parameter is grouped. What a runner does for each key of a
 * GroupByKey (the DirectRunner makes a bundle of it) costs more than what there is to do for a
 * parameter, so some hundred parameters share a key; and for each bundle that adds to a key the
 * DirectRunner copies all that the key has so far, so there are never many keys.
 *
 * <p>Parameters of a key are neighbours in the plan, as they are in partitions and files: most
 * bundles then have something for a few keys only.
 *
 * @param parametersPerKey how many neighbours share a key
 */
record ParameterKeys(int parametersPerKey) {
  private static final int FEWEST_PARAMETERS = 256;
  private static final int MOST_KEYS = 16;

  /**
   * @param parameters how many the plan has
   */
  static ParameterKeys of(int parameters) {
    return new ParameterKeys(Math.max(FEWEST_PARAMETERS, (parameters + MOST_KEYS - 1) / MOST_KEYS));
  }

  /**
   * @param ordinal the number of a parameter in the plan, see {@link PlanIndex.Place}
   */
  int keyOf(int ordinal) {
    return ordinal / parametersPerKey;
  }

  /** The first number that has the key. */
  int first(int key) {
    return key * parametersPerKey;
  }
}
