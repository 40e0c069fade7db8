package io.github.reshard.runners;

import java.io.IOException;
import java.net.URI;
import java.util.List;
import java.util.Optional;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import java.util.regex.Pattern;
import org.apache.beam.runners.flink.FlinkPipelineOptions;
import org.apache.flink.client.deployment.executors.RemoteExecutor;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.configuration.CoreOptions;
import org.apache.flink.configuration.DeploymentOptions;
import org.apache.flink.configuration.GlobalConfiguration;
import org.apache.flink.configuration.RestOptions;
import org.apache.flink.runtime.messages.webmonitor.ClusterOverview;
import org.apache.flink.runtime.rest.RestClient;
import org.apache.flink.runtime.rest.messages.ClusterOverviewHeaders;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;
import org.apache.flink.util.ConfigurationException;

/**
 * A Flink cluster that is there already, named by {@code --flinkMaster} or by {@code flink run}.
 *
 * @param configuration where it answers, and what else its clients are told
 */
record FlinkCluster(Configuration configuration) {
  private static final int ANSWER_SECONDS = 30;
  private static final Pattern FLINKS_OWN = Pattern.compile("[/\\\\]flink-[^/\\\\]*\\.jar$");

  /** The cluster that the job would go to, or nothing if it runs in this process. */
  static Optional<FlinkCluster> of(FlinkPipelineOptions options) {
    String master = options.getFlinkMaster();
    if (master.equals("[auto]") && isFlinkRun()) {
      return Optional.of(
          new FlinkCluster(
              Configuration.fromMap(
                  StreamExecutionEnvironment.getExecutionEnvironment()
                      .getConfiguration()
                      .toMap())));
    }
    if (master.startsWith("[")) {
      return Optional.empty();
    }
    Configuration configuration =
        options.getFlinkConfDir() == null
            ? new Configuration()
            : GlobalConfiguration.loadConfiguration(options.getFlinkConfDir());
    URI address = URI.create("http://" + master.replaceFirst("^https?://", ""));
    if (address.getHost() == null) {
      throw new UsageException(
          "--flinkMaster is HOST:PORT of Flink's web page, such as localhost:8081, not " + master);
    }
    configuration.set(DeploymentOptions.TARGET, RemoteExecutor.NAME);
    configuration.set(RestOptions.ADDRESS, address.getHost());
    if (address.getPort() >= 0) {
      configuration.set(RestOptions.PORT, address.getPort());
    }
    return Optional.of(new FlinkCluster(configuration));
  }

  /** Whether {@code flink run} or the cluster itself called this program. */
  private static boolean isFlinkRun() {
    return !StreamExecutionEnvironment.areExplicitEnvironmentsAllowed();
  }

  /**
   * How many tasks the job's steps may have side by side: one for each slot that is free now, or
   * all slots if none is. Beam's own default for a cluster is 1.
   *
   * @return nothing if Flink is told a parallelism, or starts TaskManagers as a job needs them
   * @throws UsageException if there is no cluster, or no TaskManager
   */
  Optional<Integer> parallelism() {
    if (configuration.contains(CoreOptions.DEFAULT_PARALLELISM)
        || !RemoteExecutor.NAME.equals(configuration.get(DeploymentOptions.TARGET))) {
      return Optional.empty();
    }
    ClusterOverview overview = overview();
    int slots = overview.getNumSlotsAvailable();
    if (slots == 0) {
      slots = overview.getNumSlotsTotal();
    }
    if (slots == 0) {
      throw new UsageException("the Flink cluster at " + address() + " has no TaskManager");
    }
    return Optional.of(slots);
  }

  private String address() {
    return configuration.get(RestOptions.ADDRESS) + ":" + configuration.get(RestOptions.PORT);
  }

  private ClusterOverview overview() {
    try {
      RestClient client = new RestClient(configuration, Runnable::run);
      try {
        return client
            .sendRequest(
                configuration.get(RestOptions.ADDRESS),
                configuration.get(RestOptions.PORT),
                ClusterOverviewHeaders.getInstance())
            .get(ANSWER_SECONDS, TimeUnit.SECONDS);
      } finally {
        var unused = client.closeAsync();
      }
    } catch (ExecutionException e) {
      throw unreachable(e.getCause());
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt();
      throw unreachable(e);
    } catch (IOException | ConfigurationException | TimeoutException e) {
      throw unreachable(e);
    }
  }

  private UsageException unreachable(Throwable cause) {
    return new UsageException("no Flink cluster answers at " + address() + ": " + cause, cause);
  }

  /**
   * The classpath, without what every cluster has: each jar that is sent costs a tenth of a second.
   */
  static List<String> filesToStage(FlinkPipelineOptions options) {
    return StagedClasspath.of(options).stream()
        .filter(file -> !FLINKS_OWN.matcher(file).find())
        .toList();
  }
}
