package io.github.reshard.pipeline;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import io.github.reshard.checkpoint.OutputException;
import io.github.reshard.pipeline.FaultyProxy.Fate;
import io.github.reshard.testing.GoldenCase;
import io.github.reshard.testing.Reassembly;
import java.io.IOException;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.concurrent.CopyOnWriteArrayList;
import org.apache.beam.sdk.options.PipelineOptions;
import org.apache.beam.sdk.options.PipelineOptionsFactory;
import org.junit.jupiter.api.Test;

/** Exports in {@code gs://}, on an emulator with a proxy in front of it. */
class ExportToBucketTest extends EmulatedBucketCase {
  private static ExportOptions options(String input, String output) {
    PipelineOptions of = Resharding.options(Path.of("in"), Path.of("out"), 1);
    PipelineOptionsFactory.register(ExportOptions.class);
    ExportOptions options = of.as(ExportOptions.class);
    options.setInput(input);
    options.setOutput(output);
    options.setDtype("asSaved");
    options.setOptimizer(true);
    options.setShardBytes(3000);
    return options;
  }

  private static Map<String, byte[]> withoutManifest(Map<String, byte[]> tree) {
    Map<String, byte[]> rest = new TreeMap<>(tree);
    assertThat(rest.remove(MANIFEST)).isNotNull();
    return rest;
  }

  @Test
  void theFilesAreThoseOfALocalExportAndReadBack() throws IOException {
    GoldenCase golden = GoldenCase.of("z2-fp16-dynamic");
    bucket.upload(golden.source(), name + "/source");
    Path local = directory.resolve("local");
    ExportPipeline.run(options(golden.source().toString(), local.toString()), Resharding.SILENT);

    ExportPipeline.run(options(gs(name + "/source"), gs(name + "/out")), Resharding.SILENT);

    Map<String, byte[]> expected = withoutManifest(GcsTree.local(local));
    Map<String, byte[]> found = withoutManifest(bucket.under(name + "/out"));
    assertThat(found).containsExactlyInAnyOrderEntriesOf(expected);
    assertThat(bucket.under(name).keySet()).noneMatch(file -> file.startsWith("latest"));

    ReshardOptions back = Resharding.options(Path.of("in"), directory.resolve("back"), 2);
    back.setInput(gs(name + "/out"));
    ReshardReport report = Resharding.run(back);
    assertThat(report.proven()).anyMatch(proof -> proof.contains("have the CRC-32"));
    assertThat(Reassembly.of(directory.resolve("back"), golden.tag()).tensors())
        .containsExactlyInAnyOrderEntriesOf(Reassembly.of(golden.source(), golden.tag()).tensors());
  }

  @Test
  void whatAReaderBeginsWithAppearsLast() throws IOException {
    GoldenCase golden = GoldenCase.of("z2-fp16-dynamic");
    List<String> appeared = new CopyOnWriteArrayList<>();
    proxy.decide(
        request -> {
          if (request.isCopy()) {
            String to = request.path().substring(request.path().indexOf("/rewriteTo/"));
            appeared.add(to.replaceAll("\\?.*", ""));
          }
          return Fate.PASSES;
        });

    ExportPipeline.run(options(golden.source().toString(), gs(name + "/out")), Resharding.SILENT);

    int firstJson = 0;
    while (!appeared.get(firstJson).endsWith(".json")) {
      firstJson++;
    }
    assertThat(appeared.subList(0, firstJson)).isNotEmpty();
    assertThat(appeared.subList(firstJson, appeared.size()))
        .hasSize(3)
        .allMatch(file -> file.endsWith(".json"));
  }

  @Test
  void onlyAnExportIsReplacedAndOnlyWhenAsked() throws IOException {
    String source = GoldenCase.of("z1-bf16").source().toString();
    String output = gs(name + "/out");
    ExportPipeline.run(options(source, output), Resharding.SILENT);

    assertThatThrownBy(() -> ExportPipeline.run(options(source, output), Resharding.SILENT))
        .isInstanceOf(OutputException.class)
        .hasMessageContaining("--overwrite replaces it");
    ExportOptions again = options(source, output);
    again.setOverwrite(true);
    again.setOptimizer(false);
    again.setShardBytes(1 << 20);
    ExportPipeline.run(again, Resharding.SILENT);
    assertThat(bucket.under(name + "/out").keySet())
        .containsExactlyInAnyOrder("model.safetensors", MANIFEST);

    bucket.write(name + "/out/mine.txt", new byte[] {1});
    assertThatThrownBy(() -> ExportPipeline.run(again, Resharding.SILENT))
        .isInstanceOf(OutputException.class)
        .hasMessageContaining("mine.txt");
    assertThatThrownBy(
            () -> ExportPipeline.run(options(source, "gs://" + BUCKET), Resharding.SILENT))
        .isInstanceOf(OutputException.class)
        .hasMessageContaining("is a bucket");
  }
}
