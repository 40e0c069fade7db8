package io.github.reshard.runners;

import static io.github.reshard.runners.Command.EXPORT;
import static io.github.reshard.runners.Option.Group.WEIGHTS;
import static io.github.reshard.runners.Option.Kind.BYTES;
import static io.github.reshard.runners.Option.Kind.DTYPE;
import static io.github.reshard.runners.Option.Kind.FLAG;
import static io.github.reshard.runners.Option.Kind.TEXT;

import java.util.List;

/** The options of the weights that are exported. */
final class WeightsOptions {
  static final List<Option> TABLE =
      List.of(
          Option.of("dtype", DTYPE, "TYPE", WEIGHTS)
              .takenBy(
                  "The type of parameters in the output: bf16, fp16, fp32, or asSaved for the one"
                      + " that the run computed with. fp32 are the master weights; other types that"
                      + " the run did not have are their casts, rounded to nearest even. Buffers"
                      + " and quantised weights stay as they are. Default: asSaved.",
                  EXPORT),
          Option.of("shardBytes", BYTES, "SIZE", WEIGHTS)
              .takenBy(
                  "How many bytes of tensors one file holds at most; one that is larger has a file"
                      + " of its own. Default: 5000000000, the 5GB of save_pretrained.",
                  EXPORT),
          Option.of("optimizer", FLAG, "", WEIGHTS)
              .takenBy(
                  "Also write the optimizer's states, one tensor for each parameter and state, and"
                      + " the fp32 masters, as optimizer.safetensors with optimizer.json:"
                      + " docs/open-state.md. Default: weights only.",
                  EXPORT),
          Option.of("stripPrefix", TEXT, "PREFIX", WEIGHTS)
              .takenBy(
                  "What to take off the names that begin with it, such as Lightning's"
                      + " _forward_module. or torch.compile's _orig_mod. Default: none.",
                  EXPORT),
          Option.of("only", TEXT, "PATTERN", WEIGHTS)
              .takenBy(
                  "Export only tensors with such names in the checkpoint; * and ? stand for any"
                      + " text and any character, commas separate several. Quote it. Default: all.",
                  EXPORT));

  private WeightsOptions() {}
}
