package io.github.reshard.checkpoint.dcp;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.plan.ReshardPlan;
import io.github.reshard.checkpoint.template.TemplateTensors;
import io.github.reshard.checkpoint.template.TemplateValues;
import io.github.reshard.checkpoint.torch.PickledValue;
import io.github.reshard.checkpoint.torch.TensorNode;
import io.github.reshard.checkpoint.torch.TorchFile;
import java.util.ArrayList;
import java.util.List;
import java.util.Optional;

/** Tensors in the client state of a template. */
final class ClientTensors {
  private ClientTensors() {}

  /**
   * Those of a file that the distributed checkpoint has as well.
   *
   * @param source the index of the file in {@code plan}
   * @throws RefusedException if one is of another type or shape there
   */
  static List<TemplateTensors.Located> of(
      ReshardPlan plan, int source, TorchFile file, DcpKeys keys) {
    PickledValue root = PickledValue.root(file.path(), file.parse().root());
    List<TemplateTensors.Located> found = new ArrayList<>();
    if (!TemplateValues.isModelFile(root)) {
      return found;
    }
    for (ClientState.Leaf leaf : ClientState.of(root)) {
      Optional<TensorNode> tensor = leaf.tensor();
      if (tensor.isPresent() && keys.tensor(leaf.key()).isPresent() && tensor.get().numel() > 0) {
        TemplateTensors.Located located =
            TemplateTensors.ofClient(
                plan, source, file, leaf.key(), leaf.value().where(), tensor.get());
        DcpTypes.requireAlike(keys, leaf.key(), located.dtype(), located.shape(), false);
        found.add(located);
      }
    }
    return found;
  }

  /**
   * @throws RefusedException if {@code tensor} lies in the bytes of another one
   */
  static void requireApart(TemplateTensors.Located tensor, List<TemplateTensors.Located> others) {
    for (TemplateTensors.Located other : others) {
      if (tensor.overlaps(other)) {
        throw new RefusedException(
            tensor.where(),
            "shares its storage with %s, and in a distributed checkpoint each is a tensor of its own. Save the template with a .clone() of it."
                .formatted(other.where()));
      }
    }
  }
}
