package io.github.reshard.checkpoint.storage;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import io.github.reshard.checkpoint.OutputException;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.EnumSource;

/** A run that dies between any two steps of publishing. */
class LocalCrashTest extends LocalStoresCase {
  /** The states of the output directory between the steps of publishing over an old tag. */
  private enum Crash {
    BEFORE_PUBLISHING,
    MARKED,
    LATEST_TAKEN_AWAY,
    OLD_TAG_ASIDE,
    NEW_TAG_IN_PLACE,
    ONE_FILE_BESIDE_IN_PLACE,
    LATEST_WRITTEN,
    OLD_TAG_DELETED
  }

  /** Does by hand what publishing had done when it was killed. */
  private void crash(Path staging, Crash when) throws IOException {
    Path marker = output.resolve(".reshard-step3.publishing");
    Path replaced = output.resolve(".reshard-step3.replaced");
    if (when.compareTo(Crash.MARKED) >= 0) {
      Files.writeString(marker, "");
    }
    if (when.compareTo(Crash.LATEST_TAKEN_AWAY) >= 0) {
      Files.delete(output.resolve("latest"));
    }
    if (when.compareTo(Crash.OLD_TAG_ASIDE) >= 0) {
      Files.move(output.resolve("step3"), replaced);
    }
    if (when.compareTo(Crash.NEW_TAG_IN_PLACE) >= 0) {
      Files.writeString(staging.resolve(MANIFEST), "{}");
      Files.move(staging.resolve("step3"), output.resolve("step3"));
    }
    if (when.compareTo(Crash.ONE_FILE_BESIDE_IN_PLACE) >= 0) {
      Files.move(staging.resolve(BESIDE), output.resolve(BESIDE));
    }
    if (when.compareTo(Crash.LATEST_WRITTEN) >= 0) {
      Files.writeString(output.resolve("latest"), "step3");
    }
    if (when.compareTo(Crash.OLD_TAG_DELETED) >= 0) {
      Files.delete(replaced.resolve("old.pt"));
      Files.delete(replaced);
    }
  }

  private void assertLatestNamesAWholeTag() {
    if (Files.exists(output.resolve("latest"))) {
      boolean old = Files.exists(output.resolve("step3/old.pt"));
      boolean published =
          Files.exists(output.resolve(FILE)) && Files.exists(output.resolve(BESIDE));
      assertThat(old || published).isTrue();
    }
  }

  @ParameterizedTest
  @EnumSource
  void aRerunRepairsACrashAtAnyStep(Crash when) throws IOException {
    writeOldTag();
    LocalTargetStore killed = store(true);
    killed.begin();
    writeAll(killed);
    crash(killed.staging(), when);
    dies();
    assertLatestNamesAWholeTag();

    run(store(true));

    assertPublished();
    assertThat(output.resolve("step3/old.pt")).doesNotExist();
  }

  @ParameterizedTest
  @EnumSource(
      mode = EnumSource.Mode.EXCLUDE,
      names = {"BEFORE_PUBLISHING", "MARKED", "LATEST_TAKEN_AWAY", "OLD_TAG_ASIDE"})
  void theSamePublishingGoesOnWhereItWasKilled(Crash when) throws IOException {
    writeOldTag();
    LocalTargetStore store = store(true);
    store.begin();
    writeAll(store);
    crash(store.staging(), when);

    publish(store);

    assertPublished();
  }

  @ParameterizedTest
  @EnumSource
  void cleaningUpAfterACrashNeverTouchesATag(Crash when) throws IOException {
    writeOldTag();
    LocalTargetStore killed = store(true);
    killed.begin();
    writeAll(killed);
    crash(killed.staging(), when);
    dies();
    boolean half =
        when.compareTo(Crash.LATEST_TAKEN_AWAY) >= 0 && when.compareTo(Crash.LATEST_WRITTEN) < 0;

    if (half) {
      assertThatThrownBy(() -> Leftovers.remove(output.toString()))
          .isInstanceOf(OutputException.class)
          .hasMessageContaining("the run that published 'step3' died in the middle of it")
          .hasMessageContaining("Run the same reshard again");
      run(store(false));
      assertPublished();
    } else {
      assertThat(Leftovers.remove(output.toString()))
          .extracting(Leftovers.Removed::where)
          .contains(output.resolve(".reshard-step3.unpublished").toString());
      assertThat(output.resolve("latest")).hasContent("step3");
      assertThat(output.resolve("step3")).isNotEmptyDirectory();
      assertThat(output).isDirectoryNotContaining("glob:**/.reshard*");
    }
    assertThat(Leftovers.remove(output.toString())).isEmpty();
  }
}
