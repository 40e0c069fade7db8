package io.github.reshard.checkpoint.pickle;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import io.github.reshard.checkpoint.RefusedException;
import java.nio.charset.StandardCharsets;
import java.util.List;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

class PickleWriterTest {
  @Test
  void anEqualTextIsAnotherObjectAndTheSameNodeIsNot() {
    PyStr shared = new PyStr("k");

    // CPython 3.11: s = "".join("k"); pickle.dumps([s, s, "".join(["k", ""])], 2)
    assertThat(PickleWriter.write(PyList.of(List.of(shared, shared, new PyStr("k"))), 2))
        .isEqualTo(latin1("\u0080\u0002]q\0(X\1\0\0\0kq\1h\1X\1\0\0\0kq\2e."));
  }

  @Test
  void aFreshGlobalOfAKnownNameIsTheSameObject() {
    PyList root =
        PyList.of(
            List.of(new PyGlobal("torch", "FloatStorage"), new PyGlobal("torch", "FloatStorage")));

    // CPython 3.11: pickle.dumps([torch.FloatStorage, torch.FloatStorage], 2)
    assertThat(PickleWriter.write(root, 2))
        .isEqualTo(latin1("\u0080\u0002]q\0(ctorch\nFloatStorage\nq\1h\1e."));
  }

  /**
   * Optimized pickles have no memo entry for an object that is used once; an edit may use it again.
   */
  @Test
  void anObjectReadWithoutMemoEntryStaysOneObjectWhenItIsUsedTwice() {
    PyList root = (PyList) PickleReader.read(latin1("\u0080\u0002]ca\nB\n)\u0081a."), "x").root();
    root.items().add(root.get(0));
    PyList again = (PyList) PickleReader.read(PickleWriter.write(root, 2), "again").root();

    assertThat(again.get(1)).isSameAs(again.get(0));
  }

  @Test
  void bytesAndSetsMadeHereAreWrittenAsProtocol2Does() {
    PySet set = new PySet(false);
    set.items().add(PyInt.of(1));

    // CPython 3.11: pickle.dumps([{1}, b"\xff", bytearray()], 2)
    assertThat(
            PickleWriter.write(
                PyList.of(
                    List.of(
                        set, new PyBytes(new byte[] {-1}, false), new PyBytes(new byte[0], true))),
                2))
        .isEqualTo(
            latin1(
                "\u0080\u0002]q\0(c__builtin__\nset\nq\1]q\2K\1a\u0085q\3Rq\4"
                    + "c_codecs\nencode\nq\5X\2\0\0\0\u00c3\u00bfq\6X\6\0\0\0latin1q\7\u0086q\u0008Rq\t"
                    + "c__builtin__\nbytearray\nq\n)Rq\u000be."));
  }

  @Test
  void anObjectAmongItsOwnArgumentsIsRefused() {
    PyList args = new PyList();
    PyInstance loop = PyInstance.reduce(new PyGlobal("a", "B"), PyTuple.of(args));
    args.items().add(loop);

    assertThatThrownBy(() -> PickleWriter.write(loop, 2))
        .isInstanceOf(RefusedException.class)
        .hasMessageContaining("an object of a.B is among its own constructor arguments");
  }

  @Test
  void whatTheProtocolHasNoOpcodeForIsRefused() {
    PyInstance withKeywords =
        new PyInstance(
            PyInstance.Construction.NEWOBJ_EX, new PyGlobal("a", "B"), PyTuple.of(), new PyDict());

    assertThatThrownBy(() -> PickleWriter.write(withKeywords, 2))
        .isInstanceOf(RefusedException.class)
        .hasMessageContaining("NEWOBJ_EX, which an object of a.B needs");
    assertThatThrownBy(() -> PickleWriter.write(new PyGlobal("a\nb", "c"), 2))
        .isInstanceOf(RefusedException.class)
        .hasMessageContaining("no way to write the name");
  }

  @ParameterizedTest
  @ValueSource(ints = {-1, 0, 1, 6})
  void otherProtocolsAreRefused(int protocol) {
    assertThatThrownBy(() -> PickleWriter.write(PyNone.NONE, protocol))
        .isInstanceOf(RefusedException.class)
        .hasMessageContaining("expected protocol 2 to 5, found " + protocol);
  }

  private static byte[] latin1(String text) {
    return text.getBytes(StandardCharsets.ISO_8859_1);
  }
}
