package io.github.reshard.pipeline.storage;

import io.github.reshard.checkpoint.RefusedException;

/**
 * {@code SCHEME://BUCKET/NAME}, taken apart.
 *
 * @param name without slashes at its ends; empty for the bucket itself
 */
record ObjectName(String scheme, String bucket, String name) {

  static ObjectName parse(String location) {
    int colon = location.indexOf("://");
    String rest = location.substring(colon + 3);
    int slash = rest.indexOf('/');
    String bucket = slash < 0 ? rest : rest.substring(0, slash);
    String name = slash < 0 ? "" : rest.substring(slash + 1);
    while (name.endsWith("/")) {
      name = name.substring(0, name.length() - 1);
    }
    if (bucket.isEmpty() || name.startsWith("/") || name.contains("//")) {
      throw new RefusedException(
          location,
          "expected %s://BUCKET/PATH with no empty part".formatted(location.substring(0, colon)));
    }
    return new ObjectName(location.substring(0, colon), bucket, name);
  }

  /** {@code location} and {@code name} joined. */
  static String child(String location, String name) {
    return location.endsWith("/") ? location + name : location + "/" + name;
  }

  @Override
  public String toString() {
    return scheme + "://" + bucket + (name.isEmpty() ? "" : "/" + name);
  }
}
