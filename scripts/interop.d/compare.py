"""Says how the files of two checkpoints differ: scripts/interop compare A B [--ignore GLOB]...

Loads every torch file with PyTorch, which runs what their pickles say: for files you trust.
"""

import argparse
import collections
import fnmatch
import os
import pickle
import sys
import zipfile

import torch


def main():
    parser = argparse.ArgumentParser(prog="scripts/interop compare", description=__doc__)
    parser.add_argument("a", help="a checkpoint directory, a tag directory or one file")
    parser.add_argument("b")
    parser.add_argument("--ignore", action="append", default=[], metavar="GLOB",
                        help="leave out differences whose place, FILE:path.to.value, matches")
    parser.add_argument("--limit", type=int, default=20, metavar="N",
                        help="differences shown for one file (default: 20)")
    parser.add_argument("--close", type=float, default=0.0, metavar="R",
                        help="take elements for equal that lie within R of each other, relative to "
                        "the tensor's largest (default: bit for bit)")
    options = parser.parse_args()
    for path in (options.a, options.b):
        if not os.path.exists(path):
            parser.error(f"no such file or directory: {path}")
    pairs = _pairs(options.a, options.b)
    counts = collections.Counter()
    for name, (one, two) in pairs.items():
        found = [text for place, text in _file_differences(name, one, two, counts, options.close)
                 if not any(fnmatch.fnmatch(place, glob) for glob in options.ignore)]
        for text in found[:options.limit]:
            print(text)
        if len(found) > options.limit:
            print(f"{name}: {len(found) - options.limit} more")
        counts["differing files"] += bool(found)
    print(f"{len(pairs)} files: {counts['identical']} identical in every byte, "
          f"{counts['equal']} equal in content, {counts['differing files']} different; "
          f"{counts['tensors']} tensors compared")
    return 1 if counts["differing files"] else 0


def differences(a, b):
    """(place, text) of each; a place is FILE:path.to.value."""
    return [difference for name, (one, two) in _pairs(a, b).items()
            for difference in _file_differences(name, one, two, collections.Counter(), 0.0)]


def _pairs(one, two):
    """The paths of each file on both sides, or None, by name."""
    if os.path.isfile(one) and os.path.isfile(two):
        return {os.path.basename(two): (one, two)}
    a, b = _files(one), _files(two)
    return {name: (a.get(name), b.get(name)) for name in sorted({*a, *b})}


def _files(root):
    return {os.path.relpath(os.path.join(folder, name), root): os.path.join(folder, name)
            for folder, _, names in os.walk(root) for name in names}


def _file_differences(name, one, two, counts, close):
    if one is None or two is None:
        return [(f"{name}:", f"{name}: only in {'B' if one is None else 'A'}")]
    with open(one, "rb") as a, open(two, "rb") as b:
        if a.read() == b.read():
            counts["identical"] += 1
            return []
    if not (zipfile.is_zipfile(one) and zipfile.is_zipfile(two)):
        return [(f"{name}:", f"{name}: differs")]
    comparison = _Comparison(counts, close)
    try:
        a, b = (torch.load(path, map_location="cpu", weights_only=False) for path in (one, two))
    except (RuntimeError, pickle.UnpicklingError, AttributeError, ImportError) as error:
        return [(f"{name}:", f"{name}: cannot be loaded: {error}")]
    comparison.compare(a, b, "")
    counts["equal"] += not comparison.found
    return [(f"{name}:{place}", f"{name}:{place}: {text}") for place, text in comparison.found]


class _Comparison:
    """Walks two object graphs in step. Shared objects are told by the place that is met first, so
    that a tensor which views another storage than its counterpart does is a difference."""

    def __init__(self, counts, close):
        self.found = []
        self.close = close
        self.counts = counts
        self.pairs = set()
        self.storages = ({}, {})

    def compare(self, one, two, place):
        if type(one) is not type(two):
            self._differ(place, f"{type(one).__name__} {one!r} in A, {type(two).__name__} {two!r} in B")
        elif isinstance(one, torch.Tensor):
            self._tensors(one, two, place)
        elif (id(one), id(two)) in self.pairs:
            return
        elif isinstance(one, dict):
            self._remember(one, two)
            self._dicts(one, two, place)
        elif isinstance(one, (list, tuple)):
            self._remember(one, two)
            if len(one) != len(two):
                self._differ(place, f"{len(one)} items in A, {len(two)} in B")
            for index, (a, b) in enumerate(zip(one, two)):
                self.compare(a, b, f"{place}[{index}]")
        elif isinstance(one, (set, frozenset)) or not hasattr(one, "__dict__"):
            if one != two and repr(one) != repr(two):
                self._differ(place, f"{one!r} in A, {two!r} in B")
        elif isinstance(one, (type, torch.dtype)) or callable(one):
            if one is not two:
                self._differ(place, f"{one!r} in A, {two!r} in B")
        else:
            self._remember(one, two)
            self._dicts(vars(one), vars(two), place)

    def _remember(self, one, two):
        self.pairs.add((id(one), id(two)))

    def _dicts(self, one, two, place):
        for key in one:
            if key not in two:
                self._differ(f"{place}.{key}", "only in A")
        for key in two:
            if key not in one:
                self._differ(f"{place}.{key}", "only in B")
        if list(one) != list(two) and one.keys() == two.keys():
            self._differ(place, f"order of keys {list(one)[:8]} in A, {list(two)[:8]} in B")
        for key in one:
            if key in two:
                self.compare(one[key], two[key], f"{place}.{key}")
        attributes = getattr(one, "__dict__", {}), getattr(two, "__dict__", {})
        if any(attributes) and one is not attributes[0]:
            self._dicts(*attributes, f"{place}.__dict__")

    def _tensors(self, one, two, place):
        self.counts["tensors"] += 1
        for what in ("dtype", "shape", "stride", "storage_offset", "requires_grad"):
            a, b = (getattr(t, what) for t in (one, two))
            a, b = (a(), b()) if callable(a) else (a, b)
            if a != b:
                self._differ(place, f"{what} {a} in A, {b} in B")
        storages = [t.untyped_storage() for t in (one, two)]
        first = [known.setdefault(s._cdata, place) for known, s in zip(self.storages, storages)]
        if first[0] != first[1]:
            self._differ(place, f"shares the storage of {first[0]} in A, of {first[1]} in B")
        if storages[0].nbytes() != storages[1].nbytes():
            self._differ(place, f"storage of {storages[0].nbytes()} bytes in A, "
                         f"{storages[1].nbytes()} in B")
        if one.dtype == two.dtype and one.shape == two.shape and not self._near(one, two):
            bytes_ = [t.detach().contiguous().reshape(-1).view(torch.uint8).reshape(t.numel(), -1)
                      for t in (one, two)] if one.numel() else []
            wrong = int((bytes_[0] != bytes_[1]).any(1).sum()) if bytes_ else 0
            if wrong:
                where = int((bytes_[0] != bytes_[1]).any(1).nonzero()[0])
                a, b = (t.detach().reshape(-1)[where].item() for t in (one, two))
                self._differ(place, f"{wrong} of {one.numel()} elements differ, the first at "
                             f"{where}: {a} in A, {b} in B")
        if hasattr(one, "__dict__") or hasattr(two, "__dict__"):
            self._dicts(vars(one), vars(two), f"{place}.__dict__")

    def _near(self, one, two):
        if not (self.close and one.is_floating_point() and one.numel()):
            return False
        a, b = one.detach().double(), two.detach().double()
        return bool(((a - b).abs() <= self.close * a.abs().max()).all())

    def _differ(self, place, text):
        self.found.append((place.lstrip("."), text if len(text) < 300 else text[:300] + "..."))


if __name__ == "__main__":
    sys.exit(main())
