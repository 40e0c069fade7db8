package io.github.reshard.pipeline;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import io.github.reshard.checkpoint.OutputException;
import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.storage.Leftovers;
import io.github.reshard.pipeline.storage.Stores;
import io.github.reshard.testing.GoldenCase;
import java.io.IOException;
import java.net.URI;
import java.nio.file.Path;
import java.util.Map;
import java.util.TreeMap;
import org.apache.beam.sdk.io.aws2.options.AwsOptions;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.TestInfo;
import org.junit.jupiter.api.io.TempDir;
import software.amazon.awssdk.auth.credentials.AwsBasicCredentials;
import software.amazon.awssdk.auth.credentials.StaticCredentialsProvider;
import software.amazon.awssdk.core.sync.RequestBody;
import software.amazon.awssdk.regions.Region;
import software.amazon.awssdk.services.s3.S3Client;
import software.amazon.awssdk.services.s3.model.S3Object;

/** Checkpoints in {@code s3://}, through Beam's file systems, on an emulator. */
class SimpleStorageTest {
  private static final String BUCKET = "checkpoints";
  private static final StaticCredentialsProvider ANYBODY =
      StaticCredentialsProvider.create(AwsBasicCredentials.create("any", "body"));

  private static S3Client s3;

  @TempDir Path directory;
  private String name;

  @BeforeAll
  static void start() {
    System.setProperty("reshard.smallRunBytes", "100");
    s3 =
        S3Client.builder()
            .endpointOverride(Emulator.s3().uri())
            .region(Region.US_EAST_1)
            .credentialsProvider(ANYBODY)
            .forcePathStyle(true)
            .build();
    s3.createBucket(request -> request.bucket(BUCKET));
  }

  @AfterAll
  static void stop() {
    System.clearProperty("reshard.smallRunBytes");
    s3.close();
  }

  @BeforeEach
  void name(TestInfo test) {
    name = test.getTestMethod().orElseThrow().getName();
  }

  private static Map<String, byte[]> under(String prefix) {
    Map<String, byte[]> all = new TreeMap<>();
    for (S3Object object :
        s3.listObjectsV2Paginator(request -> request.bucket(BUCKET).prefix(prefix + "/"))
            .contents()) {
      all.put(
          object.key().substring(prefix.length() + 1),
          s3.getObjectAsBytes(request -> request.bucket(BUCKET).key(object.key())).asByteArray());
    }
    return all;
  }

  private static void upload(Path directory, String prefix) throws IOException {
    GcsTree.local(directory)
        .forEach(
            (file, bytes) ->
                s3.putObject(
                    request -> request.bucket(BUCKET).key(prefix + "/" + file),
                    RequestBody.fromBytes(bytes)));
  }

  private static ReshardOptions options(String input, String output, int worldSize) {
    ReshardOptions options = Resharding.options(Path.of("in"), Path.of("out"), worldSize);
    options.setInput(input);
    options.setOutput(output);
    options.setPartBytes(4000);
    AwsOptions aws = options.as(AwsOptions.class);
    aws.setEndpoint(URI.create(Emulator.s3().uri().toString()));
    aws.setAwsRegion(Region.US_EAST_1);
    aws.setAwsCredentialsProvider(ANYBODY);
    return options;
  }

  private static Map<String, byte[]> withoutManifest(Map<String, byte[]> tree) {
    tree.keySet().removeIf(file -> file.endsWith("reshard-manifest.json"));
    return tree;
  }

  private static void assertSameFiles(Map<String, byte[]> actual, Map<String, byte[]> expected) {
    assertThat(actual.keySet()).isEqualTo(expected.keySet());
    expected.forEach((file, bytes) -> assertThat(actual.get(file)).as(file).isEqualTo(bytes));
  }

  @Test
  void fromBucketToBucketAndBackGivesTheSameBytes() throws IOException {
    GoldenCase golden = GoldenCase.of("z2-fp32-twogroups");
    upload(golden.source(), name + "/source");
    String bucket = "s3://" + BUCKET + "/" + name;
    Resharding.run(options(bucket + "/source", bucket + "/out", 2));
    assertSameFiles(
        withoutManifest(under(name + "/out")),
        withoutManifest(GcsTree.local(Resharding.of(golden, 2))));

    Path local = directory.resolve("local");
    Resharding.run(options(bucket + "/source", local.toString(), golden.sourceWorld()));
    assertSameFiles(withoutManifest(GcsTree.local(local)), GcsTree.local(golden.source()));
  }

  @Test
  void aTagThatIsThereIsReplacedOnlyWithOverwrite() throws IOException {
    GoldenCase golden = GoldenCase.of("z1-bf16");
    String output = "s3://" + BUCKET + "/" + name;
    Resharding.run(options(golden.source().toString(), output, 3));
    assertThatThrownBy(() -> Resharding.run(options(golden.source().toString(), output, 2)))
        .isInstanceOf(OutputException.class)
        .hasMessageContaining("--overwrite");
    ReshardOptions again = options(golden.source().toString(), output, 2);
    again.setOverwrite(true);
    Resharding.run(again);
    assertSameFiles(
        withoutManifest(under(name)), withoutManifest(GcsTree.local(Resharding.of(golden, 2))));
  }

  @Test
  void whatADeadRunLeftIsRemovedAndNothingElse() throws IOException {
    GoldenCase golden = GoldenCase.of("z1-bf16");
    String output = "s3://" + BUCKET + "/" + name;
    ReshardOptions options = options(golden.source().toString(), output, 3);
    Resharding.run(options);
    s3.putObject(
        request -> request.bucket(BUCKET).key(name + "/.reshard-old.unpublished/1234/begun"),
        RequestBody.fromBytes(new byte[5]));

    assertThat(Stores.removeLeftovers(output, options))
        .containsExactly(new Leftovers.Removed(output + "/.reshard-old.unpublished", 1, 5));
    assertSameFiles(
        withoutManifest(under(name)), withoutManifest(GcsTree.local(Resharding.of(golden, 3))));
  }

  @Test
  void whatIsNotThereIsSaid() {
    assertThatThrownBy(
            () -> Resharding.run(options("s3://" + BUCKET + "/nothing", directory.toString(), 2)))
        .isInstanceOf(RefusedException.class)
        .hasMessageContaining("there is no such directory");
  }
}
