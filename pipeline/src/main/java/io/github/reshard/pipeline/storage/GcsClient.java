package io.github.reshard.pipeline.storage;

import com.google.cloud.NoCredentials;
import com.google.cloud.storage.Storage;
import com.google.cloud.storage.StorageException;
import com.google.cloud.storage.StorageOptions;
import com.google.cloud.storage.StorageRetryStrategy;
import java.time.Duration;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;

/** Google's client, one for each endpoint and process, and what its errors mean. */
final class GcsClient {
  /** As Google's other clients name it: an emulator, which asks for no credentials. */
  static final String EMULATOR_VARIABLE = "STORAGE_EMULATOR_HOST";

  /** The same for programs that cannot set a variable; wins. */
  static final String EMULATOR_PROPERTY = "reshard.gcs.endpoint";

  private static final Map<String, Storage> CLIENTS = new ConcurrentHashMap<>();

  private GcsClient() {}

  /** The endpoint that the environment names, or an empty text for Google's own. */
  static String endpoint() {
    String endpoint = System.getProperty(EMULATOR_PROPERTY, System.getenv(EMULATOR_VARIABLE));
    if (endpoint == null || endpoint.isEmpty()) {
      return "";
    }
    return endpoint.contains("://") ? endpoint : "http://" + endpoint;
  }

  static Storage at(String endpoint) {
    return CLIENTS.computeIfAbsent(endpoint, GcsClient::connect);
  }

  private static Storage connect(String endpoint) {
    StorageOptions.Builder options =
        StorageOptions.http()
            // Every write here may be repeated: names are this run's own and generations are
            // asked for.
            .setStorageRetryStrategy(StorageRetryStrategy.getUniformStorageRetryStrategy());
    if (!endpoint.isEmpty()) {
      // An emulator is near.
      options
          .setRetrySettings(
              StorageOptions.getDefaultRetrySettings().toBuilder()
                  .setInitialRetryDelayDuration(Duration.ofMillis(20))
                  .setMaxRetryDelayDuration(Duration.ofMillis(500))
                  .build())
          .setHost(endpoint)
          .setProjectId("emulated")
          .setCredentials(NoCredentials.getInstance());
    }
    return options.build().getService();
  }

  /** Whether asking again, even much later, gives the same answer. */
  static boolean isFinal(StorageException e) {
    return switch (e.getCode()) {
      case 400, 401, 403, 404, 412, 416 -> true;
      default -> false;
    };
  }

  /** What went wrong and what to do, for a user. */
  static String explain(StorageException e, String bucket, boolean reading) {
    String said = String.valueOf(e.getMessage()).lines().findFirst().orElse("");
    return switch (e.getCode()) {
      case 401 ->
          "there are no valid credentials for Google Cloud Storage. Log in with `gcloud auth application-default login`, or let GOOGLE_APPLICATION_CREDENTIALS name a service account's key. The server said: "
              + said;
      case 403 ->
          "the account may not %s here. It needs %s on the bucket %s, and GOOGLE_CLOUD_PROJECT or the account may be of another project. The server said: %s"
              .formatted(
                  reading ? "read" : "write",
                  reading
                      ? "storage.objects.get and .list (Storage Object Viewer)"
                      : "storage.objects.create, .get, .list and .delete (Storage Object User)",
                  bucket,
                  said);
      case 404 ->
          "there is no bucket %s, or it is in a project that the account cannot see. The server said: %s"
              .formatted(bucket, said);
      default ->
          "the store could not be reached or kept failing, after several attempts: "
              + (e.getCode() == 0 ? "" : "HTTP " + e.getCode() + ", ")
              + said;
    };
  }
}
