package io.github.reshard.checkpoint.pickle;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import io.github.reshard.checkpoint.RefusedException;
import java.nio.charset.StandardCharsets;
import java.util.Arrays;
import java.util.HexFormat;
import java.util.List;
import java.util.stream.Stream;
import net.jqwik.api.ForAll;
import net.jqwik.api.Property;
import net.jqwik.api.constraints.IntRange;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.Arguments;
import org.junit.jupiter.params.provider.MethodSource;

class HostilePickleTest {
  static Stream<Arguments> damaged() {
    return Stream.of(
        Arguments.of("nothing", "", "byte 0: the pickle ends without STOP"),
        Arguments.of("no STOP", "80024e", "byte 3: the pickle ends without STOP"),
        Arguments.of("unknown opcode", "8002ff2e", "byte 2: unknown opcode 0xff"),
        Arguments.of(
            "future protocol", "80064e2e", "opcode PROTO: expected protocol 0 to 5, found 6"),
        Arguments.of("no PROTO argument", "80", "expected 1 more bytes, found 0"),
        Arguments.of(
            "text cut off", "80025805000000616263", "BINUNICODE: expected 5 more bytes, found 3"),
        Arguments.of(
            "text of 4 GiB", "800258ffffffff2e", "expected 4294967295 more bytes, found 1"),
        Arguments.of(
            "text of 2^64", "80048dffffffffffffffff2e", "expected 18446744073709551615 more"),
        Arguments.of(
            "negative length", "80028bffffffff2e", "LONG4: expected 18446744073709551615 more"),
        Arguments.of("int cut off", "80024a0102", "BININT: expected 4 more bytes, found 2"),
        Arguments.of(
            "frame too long", "800495ff000000000000004e2e", "a frame of 255 bytes, but 2 remain"),
        Arguments.of(
            "large number shared",
            "80028a09ffffffffffffffff7f710068002e",
            "BINGET: memo entry 0 is a number of 71 bits, which is never shared"),
        Arguments.of("memo never set", "800268052e", "BINGET: memo entry 5 was never set"),
        Arguments.of("memo of nothing", "800271052e", "BINPUT: expected an object on the stack"),
        Arguments.of("STOP without object", "80022e", "STOP: expected an object on the stack"),
        Arguments.of(
            "object left over", "80024e4e2e", "expected one object on the stack, found 1 more"),
        Arguments.of("mark left over", "8002284e2e", "expected one object on the stack"),
        Arguments.of("trailing bytes", "80024e2e00", "found 1 more bytes after the object"),
        Arguments.of("tuple of too few", "80024e862e", "TUPLE2: expected an object on the stack"),
        Arguments.of(
            "tuple across a mark", "80024e284e862e", "TUPLE2: expected an object on the stack"),
        Arguments.of("no mark", "80024e742e", "TUPLE: expected a MARK"),
        Arguments.of(
            "append to None", "80024e4e612e", "APPEND: expected a list or an object, found None"),
        Arguments.of(
            "item in a list",
            "80025d4e4e732e",
            "SETITEM: expected a dict or an object, found a list"),
        Arguments.of("half a pair", "80027d284e752e", "expected pairs of key and value, found 1"),
        Arguments.of(
            "add to a frozenset", "8004289128902e", "ADDITEMS: expected a set, found a frozenset"),
        Arguments.of(
            "call of None", "80024e29522e", "REDUCE: expected a class or function, found None"),
        Arguments.of(
            "call without tuple",
            "8002" + global("a", "b") + "5d522e",
            "expected a tuple of arguments"),
        Arguments.of(
            "kwargs no dict", "8004" + global("a", "b") + "295d922e", "NEWOBJ_EX: expected a dict"),
        Arguments.of(
            "class of ints",
            "80044b014b02932e",
            "STACK_GLOBAL: expected two strings, found 1 and 2"),
        Arguments.of("state of a list", "80025d7d622e", "BUILD: expected an object, found a list"),
        Arguments.of(
            "two states",
            "8002" + global("a", "B") + "29817d627d622e",
            "a second state for an object of a.B"),
        Arguments.of(
            "items after state",
            "8002" + global("a", "B") + "29817d624e612e",
            "after its dict items or state"),
        Arguments.of(
            "extension code", "800282012e", "EXT1: a class of the copyreg extension registry"),
        Arguments.of("out-of-band buffer", "8005972e", "NEXT_BUFFER: an out-of-band buffer"),
        Arguments.of(
            "old instance", "2869610a620a2e", "INST: an opcode that torch.save does not write"),
        Arguments.of(
            "not UTF-8", "800258020000006180" + "2e", "text that is not UTF-8 at its byte 1"),
        Arguments.of(
            "overlong UTF-8", "80025802000000c0802e", "text that is not UTF-8 at its byte 0"),
        Arguments.of(
            "beyond Unicode", "80025804000000f49080802e", "text that is not UTF-8 at its byte 0"),
        Arguments.of(
            "pair apart",
            "80025806000000eda0bdedb8802e",
            "surrogate pair written as two code points"),
        Arguments.of("name cut off", "800263616263", "GLOBAL: expected a line"));
  }

  private static String global(String module, String name) {
    return HexFormat.of()
        .formatHex(("c" + module + "\n" + name + "\n").getBytes(StandardCharsets.US_ASCII));
  }

  @ParameterizedTest(name = "{0}")
  @MethodSource("damaged")
  void isRefusedWithItsPlace(String name, String hex, String message) {
    assertThatThrownBy(() -> PickleReader.read(HexFormat.of().parseHex(hex), "some file"))
        .isInstanceOf(RefusedException.class)
        .hasMessageStartingWith("some file: pickle byte ")
        .hasMessageContaining(message);
  }

  /**
   * Each level holds the one before ten times: 10^40 leaves to a reader that copies, 40 lists to
   * one that shares.
   */
  @Test
  void aMemoBombStaysSmall() {
    PyList level = new PyList();
    for (int depth = 0; depth < 40; depth++) {
      PyList next = new PyList();
      for (int i = 0; i < 10; i++) {
        next.items().add(level);
      }
      level = next;
    }
    byte[] bytes = PickleWriter.write(level, 2);
    Pickle read = PickleReader.read(bytes, "bomb");

    assertThat(bytes).hasSizeLessThan(2000);
    assertThat(PickleWriter.write(read.root(), 2)).isEqualTo(bytes);
    assertThat(PyEquality.firstDifference(level, read.root())).isEmpty();
  }

  @Test
  void aBombOfTuplesIsComparedInLinearTime() {
    PyTuple a = PyTuple.of(PyInt.of(1));
    PyTuple b = PyTuple.of(PyInt.of(1));
    for (int depth = 0; depth < 60; depth++) {
      a = PyTuple.of(a, a);
      b = PyTuple.of(b, b);
    }
    assertThat(PyEquality.firstDifference(a, b)).isEmpty();
  }

  @Test
  void deepNestingCostsNoStack() {
    byte[] bytes = new byte[2 + 100_000 * 2 + 2];
    Arrays.fill(bytes, (byte) ']');
    bytes[0] = (byte) 0x80;
    bytes[1] = 2;
    Arrays.fill(bytes, 2 + 100_001, bytes.length - 1, (byte) 'a');
    bytes[bytes.length - 1] = '.';
    PyObject root = PickleReader.read(bytes, "deep").root();

    byte[] written = PickleWriter.write(root, 4);
    assertThat(PyEquality.firstDifference(root, PickleReader.read(written, "again").root()))
        .isEmpty();
  }

  @Property(tries = 2000)
  void anyBytesAreReadOrRefused(@ForAll byte[] bytes) {
    readOrRefuse(bytes);
  }

  @Property(tries = 1000)
  void aRealPickleWithAByteChangedIsReadOrRefused(
      @ForAll @IntRange(max = 10_000) int at, @ForAll byte value) {
    byte[] bytes = sample();
    bytes[at % bytes.length] = value;
    readOrRefuse(bytes);
  }

  @Property(tries = 300)
  void aRealPickleCutOffIsRefused(@ForAll @IntRange(max = 10_000) int length) {
    byte[] bytes = sample();
    byte[] cut = Arrays.copyOf(bytes, length % bytes.length);
    assertThatThrownBy(() -> PickleReader.read(cut, "cut")).isInstanceOf(RefusedException.class);
  }

  private static void readOrRefuse(byte[] bytes) {
    Pickle pickle;
    try {
      pickle = PickleReader.read(bytes, "any");
    } catch (RefusedException expected) {
      return;
    }
    byte[] again;
    try {
      again = PickleWriter.write(pickle.root(), 5);
    } catch (RefusedException expected) {
      return;
    }
    assertThat(PyEquality.firstDifference(pickle.root(), PickleReader.read(again, "again").root()))
        .isEmpty();
  }

  private static byte[] sample() {
    PyDict root = new PyDict();
    PyInstance ordered =
        PyInstance.reduce(new PyGlobal("collections", "OrderedDict"), PyTuple.of());
    ordered.dictItems().add(new PyStr("weight"), PyTuple.of(PyInt.of(3), new PyFloat(0.5)));
    ordered.setState(new PyDict());
    root.entries().add(new PyStr("module"), ordered);
    root.entries().add(PyInt.of(70000), PyList.of(List.of(ordered, PyNone.NONE)));
    root.entries().add(new PyStr("bytes"), new PyBytes(new byte[300], false));
    root.entries().add(new PyStr("storage"), new PyPersistentId(PyTuple.of(new PyStr("0"))));
    return PickleWriter.write(root, 4);
  }
}
