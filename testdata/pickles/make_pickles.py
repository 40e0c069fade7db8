"""Writes the golden pickles beside this script: CASE.pPROTOCOL.pkl, by CPython's own C pickler.

Made with CPython 3.11 and numpy 2; run it anywhere to see whether a newer CPython still writes the same bytes.
Files named refused-* are pickles that Reshard refuses by name.
"""

import array
import collections
import copyreg
import dataclasses
import datetime
import decimal
import enum
import fractions
import pathlib
import pickle
import sys
import uuid

import numpy

HERE = pathlib.Path(__file__).parent
SIZES = (2, 3, 999, 1000, 1001, 2000, 2001)


class Plain:
    pass


class Slots:
    __slots__ = ("a", "b")


class Outer:
    class Inner:
        pass


class NewArgs(tuple):
    def __new__(cls, a, *, b):
        return super().__new__(cls, (a,))

    def __getnewargs_ex__(self):
        return (self[0],), {"b": 7}


class State:
    def __getstate__(self):
        return [1, 2]

    def __setstate__(self, state):
        pass


class Setter:
    pass


def set_state(obj, state):
    pass


class ListAndDict:
    def __reduce__(self):
        return ListAndDict, (), {"x": 1}, iter([1, 2, 3]), iter([("k", 1), ("l", 2)])

    def append(self, item):
        pass

    def __setitem__(self, key, value):
        pass


class Scheduler(enum.Enum):
    COSINE = "cosine"


class Flag(enum.IntFlag):
    A = 1
    B = 2


@dataclasses.dataclass
class Point:
    x: int = 1
    y: float = 2.0


Pair = collections.namedtuple("Pair", "left right")


def made(cls, **attributes):
    obj = cls()
    for name, value in attributes.items():
        setattr(obj, name, value)
    return obj


def cases():
    edges = [0, 1, 255, 256, 65535, 65536, 2**31 - 1, 2**31, 2**32, 2**63 - 1, 2**63, 2**64, 2**2039, 2**2040, 2**5000]
    yield "ints", edges + [-e for e in edges] + [-e - 1 for e in edges] + [e - 1 for e in edges]
    yield "floats", [0.0, -0.0, 1.5, float("inf"), float("-inf"), float("nan"), 5e-324, 1e308]
    yield "constants", [None, True, False, Ellipsis, NotImplemented, type(None)]
    yield "text", ["", "a", "\u00e9", "\u20ac", "\U0001f600", "x" * 255, "x" * 256, "\u00e9" * 128, "\ud800", "\udfffa", "a\ud800\U0001f600"]
    data = b"abc"
    yield "bytes", [b"", data, data, bytes(range(256)) * 2, bytearray(), bytearray(b"xyz"), b"z", bytearray(300)]
    shared = (1, (2,))
    yield "tuples", [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), shared, shared, ((), ())]
    yield "sets", [set(), {1}, {1, 2, 3}, frozenset(), frozenset([1]), frozenset([1, 2])]
    loop = []
    loop.append(loop)
    yield "recursive-list", loop
    loop = {}
    loop["self"] = loop
    yield "recursive-dict", loop
    for size in (1, 2, 3, 4, 5):
        inner = []
        loop = (inner,) + tuple(range(size - 1))
        inner.append(loop)
        yield f"recursive-tuple-{size}", loop
        yield f"recursive-tuple-{size}-through-its-list", inner
    loop = made(Plain)
    loop.me = [loop]
    yield "recursive-object", loop
    holder = made(Plain)
    loop = frozenset([holder])
    holder.me = loop
    yield "recursive-frozenset", loop
    yield "recursive-frozenset-through-its-object", holder
    ordered = collections.OrderedDict(a=1, b=[2])
    ordered.metadata = {"version": 1}
    yield "ordered-dict", [ordered, collections.OrderedDict(), ordered]
    yield "collections", [
        collections.defaultdict(list, a=[1]), collections.deque([1, 2], 3), collections.Counter("aab"),
        Pair(1, "b"), array.array("d", [1.0, 2.0]), range(3), slice(1, None, 2), complex(1, -2),
    ]
    yield "library", [
        datetime.datetime(2024, 1, 2, 3, 4, 5, 6, datetime.timezone.utc), datetime.timedelta(3), decimal.Decimal("1.10"),
        fractions.Fraction(1, 3), pathlib.PurePosixPath("/a/b"), uuid.UUID(int=5), Scheduler.COSINE, Flag.A | Flag.B,
    ]
    yield "numpy", [
        numpy.arange(6, dtype=numpy.float32).reshape(2, 3), numpy.float64(1.5), numpy.int64(3),
        numpy.array([("a", 1)], dtype=[("n", "U1"), ("v", "i4")]), numpy.random.RandomState(1).get_state()[0],
    ]
    yield "objects", [
        made(Plain), made(Plain, a=1, b="b"), made(Slots, a=1), Point(), made(State), made(ListAndDict), Plain, len, print,
        pathlib.Path, dict, set,
    ]
    yield "nested-class", [Outer.Inner(), Outer.Inner(), Outer]
    yield "newargs-ex", [NewArgs(1, b=2), NewArgs(1, b=2)]
    yield "many-memos", [[str(i) for i in range(300)], made(Plain, a="q")] + 2 * [["x", Plain]]
    for size in SIZES:
        yield f"list-{size}", [None] * size
        yield f"dict-{size}", dict.fromkeys(range(size))
        yield f"ordered-dict-{size}", collections.OrderedDict.fromkeys(range(size))
        yield f"deque-{size}", collections.deque([None] * size)
        yield f"set-{size}", set(range(size))
    deep = []
    for _ in range(3000):
        deep = [deep]
    yield "deep-list", deep
    deep = ()
    for _ in range(3000):
        deep = (deep,)
    yield "deep-tuple", deep
    yield "frames", ["x" * 30000, "y" * 30000, ["z" * 10000, 1], b"b" * 65535, b"c" * 65536, "d" * 65536, None, "e" * 65530, 1]


copyreg_setter = made(Setter, a=1)
sys.setrecursionlimit(20000)
for protocol in (2, 3, 4, 5):
    for name, value in cases():
        if name == "recursive-frozenset" and protocol < 4:
            name = "refused-" + name
        (HERE / f"{name}.p{protocol}.pkl").write_bytes(pickle.dumps(value, protocol))
    copyreg.pickle(Setter, lambda s: (Setter, (), {"a": 1}, None, None, set_state))
    (HERE / f"refused-state-setter.p{protocol}.pkl").write_bytes(pickle.dumps([copyreg_setter], protocol))
