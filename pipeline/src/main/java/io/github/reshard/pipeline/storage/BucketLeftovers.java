package io.github.reshard.pipeline.storage;

import io.github.reshard.checkpoint.OutputException;
import io.github.reshard.checkpoint.storage.JobDirectory;
import io.github.reshard.checkpoint.storage.Leftovers;
import io.github.reshard.checkpoint.storage.LockHolder;
import io.github.reshard.checkpoint.storage.OutputHeldException;
import io.github.reshard.checkpoint.storage.TargetStore;
import io.github.reshard.pipeline.storage.ObjectStore.Found;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Set;
import java.util.SortedMap;
import java.util.TreeMap;

/** What runs that died left in a bucket. */
final class BucketLeftovers {
  private BucketLeftovers() {}

  /**
   * Removes what runs that died left in {@code directory}, but for what has one of the names {@code
   * spared}.
   *
   * @throws OutputException if something is half published
   */
  static List<Leftovers.Removed> remove(ObjectStore store, String directory, Set<String> spared)
      throws IOException {
    String base = directory.isEmpty() ? "" : directory + "/";
    SortedMap<String, List<Found>> left = new TreeMap<>();
    for (Found object : store.list(base + ".reshard-")) {
      String inside = object.name().substring(base.length());
      String name = inside.substring(0, (inside + "/").indexOf('/'));
      if (Leftovers.isOne(name) && !spared.contains(name)) {
        left.computeIfAbsent(name, n -> new ArrayList<>()).add(object);
      }
    }
    for (String name : left.keySet()) {
      boolean follows = name.equals(JobDirectory.NAME);
      if (follows || name.endsWith(".lock")) {
        String lock = follows ? name + "/" + JobDirectory.LOCK : name;
        Optional<LockHolder> holder = new BucketLock(store, base + lock).livingHolder();
        if (holder.isPresent()) {
          throw new OutputHeldException(store.uri(directory), holder.get().describe());
        }
      }
    }
    Set<String> whole = new HashSet<>();
    for (String pointer : TargetStore.POINTERS) {
      Optional<Found> found = store.find(base + pointer);
      if (found.isPresent()) {
        whole.add(new String(store.read(found.get()), StandardCharsets.UTF_8).strip());
      }
    }
    Leftovers.requireNoneHalfPublished(store.uri(directory), left.keySet(), whole);
    List<Leftovers.Removed> removed = new ArrayList<>();
    for (Map.Entry<String, List<Found>> one : left.entrySet()) {
      Optional<String> removing = Leftovers.removing(one.getKey());
      if (removing.isPresent()) {
        Found marker = one.getValue().get(0);
        one.getValue().addAll(BucketRemoval.goOn(store, base, removing.get(), marker));
      }
      store.delete(one.getValue());
      removed.add(
          new Leftovers.Removed(
              store.uri(base + one.getKey()),
              one.getValue().size(),
              one.getValue().stream().mapToLong(Found::bytes).sum()));
    }
    return removed;
  }
}
