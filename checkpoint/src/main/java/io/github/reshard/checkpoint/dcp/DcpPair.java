package io.github.reshard.checkpoint.dcp;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.dcp.DcpMetadata.Item;
import io.github.reshard.checkpoint.pickle.PyEquality;
import io.github.reshard.checkpoint.pickle.PyObject;
import io.github.reshard.checkpoint.plan.ReshardPlan;
import io.github.reshard.checkpoint.state.PartitionedModel;
import io.github.reshard.checkpoint.storage.SourceStore;
import io.github.reshard.checkpoint.template.Comparison;
import java.io.IOException;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeSet;

/** Two distributed checkpoints of the same keys, however many ranks saved each. */
final class DcpPair {
  private static final long PART_BYTES = 8L << 20;
  private static final int MOST_NAMED = 5;

  private DcpPair() {}

  /**
   * One of the two.
   *
   * @param store reads its files
   * @param dcp what was found
   */
  record Side(SourceStore store, DcpCheckpoint dcp) {}

  /**
   * Looks at both.
   *
   * @throws RefusedException if they have no tensor in common, or one is not sound
   */
  static Comparison compare(Side a, Side b) throws IOException {
    Map<String, Item> first = a.dcp().items();
    Map<String, Item> second = b.dcp().items();
    Set<String> tensors = new TreeSet<>();
    Set<String> objects = new TreeSet<>();
    List<String> differences = new ArrayList<>();
    List<String> notes = new ArrayList<>();
    List<String> onlyOne = new ArrayList<>();
    Set<String> all = new TreeSet<>(first.keySet());
    all.addAll(second.keySet());
    for (String key : all) {
      Item one = first.get(key);
      Item two = second.get(key);
      if (one instanceof DcpMetadata.Tensor x && two instanceof DcpMetadata.Tensor y) {
        if (x.shape().equals(y.shape())) {
          tensors.add(key);
        } else {
          differences.add(
              "%s is of shape %s in --input and %s in --output"
                  .formatted(key, x.shape(), y.shape()));
        }
      } else if (one instanceof DcpMetadata.Value && two instanceof DcpMetadata.Value) {
        objects.add(key);
      } else if (one != null && two != null) {
        differences.add(key + " is a tensor in one and an object in the other");
      } else if ((one == null ? two : one) instanceof DcpMetadata.Tensor) {
        differences.add("only %s has %s".formatted(one == null ? "--output" : "--input", key));
      } else {
        onlyOne.add(key);
      }
    }
    if (tensors.isEmpty()) {
      throw new RefusedException(
          a.dcp().path(),
          "has no tensor in common with %s: the one has keys such as %s, the other such as %s. Two that were saved under other keys are compared with the checkpoint of DeepSpeed that both are of."
              .formatted(b.dcp().path(), some(first), some(second)));
    }
    if (!onlyOne.isEmpty()) {
      notes.add("only one of the two has %s; not compared".formatted(String.join(", ", onlyOne)));
    }
    Map<String, PyObject> ofA = a.dcp().values(a.store(), objects);
    Map<String, PyObject> ofB = b.dcp().values(b.store(), objects);
    for (String key : objects) {
      PyEquality.firstDifference(ofA.get(key), ofB.get(key))
          .ifPresent(where -> differences.add(key + " differs in " + where));
    }
    return new Comparison(plan(a, tensors), plan(b, tensors), differences, notes);
  }

  private static List<String> some(Map<String, Item> items) {
    return items.keySet().stream().limit(MOST_NAMED).toList();
  }

  private static ReshardPlan plan(Side of, Set<String> keys) throws IOException {
    DcpSources sources = DcpSources.read(of.store(), of.dcp(), keys, 0);
    LooseTensors loose = new LooseTensors();
    Map<String, Item> items = of.dcp().items();
    for (String key : keys) {
      loose.add(key, (DcpMetadata.Tensor) items.get(key), key, sources);
    }
    List<PartitionedModel> models = loose.chunks().stream().toList();
    return LooseTensors.plan(of.dcp().path(), sources.files(), models, PART_BYTES);
  }
}
