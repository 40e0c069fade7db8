package io.github.reshard.runners;

import static io.github.reshard.runners.Command.DOCTOR;
import static io.github.reshard.runners.Command.ENSURE;
import static io.github.reshard.runners.Command.INSPECT;
import static io.github.reshard.runners.Command.PLAN;
import static io.github.reshard.runners.Command.RESHARD;
import static io.github.reshard.runners.Command.VERIFY;
import static io.github.reshard.runners.Option.Group.SHARDS;
import static io.github.reshard.runners.Option.Kind.FILE;
import static io.github.reshard.runners.Option.Kind.FLAG;
import static io.github.reshard.runners.Option.Kind.TEXT;

import java.util.List;

/** The options of shards that were saved one by one. */
final class ShardsOptions {
  static final List<Option> TABLE =
      List.of(
          Option.of("shards", TEXT, "PATTERN", SHARDS)
              .takenBy(
                  "Other names: the file name with one * in the place of the rank, such as"
                      + " 'step900-rank*.pt'. Quote it. Default: the usual names.",
                  RESHARD)
              .takenBy(
                  "As in the main job. Default: the usual names.",
                  INSPECT,
                  DOCTOR,
                  ENSURE,
                  VERIFY,
                  PLAN),
          Option.of("model", FILE, "FILE", SHARDS)
              .takenBy(
                  "The model's state dict at the same step: a torch file, safetensors, or the index"
                      + " of several. It proves the order of parameters, which the shards cannot"
                      + " tell; ZeRO-3 needs it for names and shapes. Default: the order is taken"
                      + " on trust, and that is said.",
                  RESHARD)
              .takenBy("As in the main job. Default: none.", INSPECT, DOCTOR, ENSURE, VERIFY, PLAN),
          Option.of("dsConfig", FILE, "FILE", SHARDS)
              .takenBy(
                  "The DeepSpeed configuration of the run. Default: what the shards show.", RESHARD)
              .takenBy("As in the main job. Default: none.", INSPECT, DOCTOR, ENSURE, VERIFY, PLAN),
          Option.of("paramGroups", FILE, "FILE", SHARDS)
              .takenBy(
                  "JSON, for ZeRO-3 with several param groups: a list of the names of each group,"
                      + " in order. Default: one group.",
                  RESHARD)
              .takenBy("As in the main job. Default: none.", INSPECT, DOCTOR, ENSURE, VERIFY, PLAN),
          Option.of("sanitize", FLAG, "", SHARDS)
              .takenBy(
                  "Write dicts and numbers in the place of DeepSpeed's own objects, so that"
                      + " torch.load(weights_only=True) reads the shards anywhere. The guide shows"
                      + " how to put the objects back. Default: as saved.",
                  RESHARD)
              .takenBy("As in the main job. Default: off.", PLAN));

  private ShardsOptions() {}
}
