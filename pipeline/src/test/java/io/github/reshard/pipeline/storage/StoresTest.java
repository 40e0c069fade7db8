package io.github.reshard.pipeline.storage;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.storage.LocalSourceStore;
import org.apache.beam.sdk.options.PipelineOptionsFactory;
import org.junit.jupiter.api.Test;

class StoresTest {
  @Test
  void theSchemeChooses() {
    assertThat(Stores.source("a/b", PipelineOptionsFactory.create()))
        .isInstanceOf(LocalSourceStore.class);
    assertThat(Stores.source("gs://b/c", PipelineOptionsFactory.create()))
        .isInstanceOf(GcsSourceStore.class);
    assertThat(Stores.isLocal("C:\\a")).isTrue();
    assertThat(Stores.isLocal("gs://b")).isFalse();
  }

  @Test
  void aSchemeThatNobodyKnowsIsRefused() {
    assertThatThrownBy(() -> Stores.source("abc://b/c", PipelineOptionsFactory.create()))
        .isInstanceOf(RefusedException.class)
        .hasMessageContaining("abc://b/c: this build has no client for it");
  }

  @Test
  void aLocationWithAnEmptyPartIsRefused() {
    for (String location : new String[] {"gs://", "gs:///a", "gs://b//a", "gs://b/a//c"}) {
      assertThatThrownBy(
              () -> Stores.source(location, PipelineOptionsFactory.create()).list(location))
          .isInstanceOf(RefusedException.class)
          .hasMessageContaining("expected gs://BUCKET/PATH");
    }
    assertThat(Stores.directory("gs://b/a/")).isEqualTo("gs://b/a");
  }
}
