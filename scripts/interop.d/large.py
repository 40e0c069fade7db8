"""Checks with real PyTorch a file that Reshard wrote sparse, with entries beyond 4 GiB.

    scripts/interop large

makes the file and calls this.
torch.load must read it with and without mmap, and it must equal byte for byte what torch.save writes. Needs sparse files;
loading without mmap takes 10 GB of memory and is left out, saying so, where that much is not free.
"""

import os
import pathlib
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent.parent / "testdata" / "large"))

import make_large  # noqa: E402
import torch  # noqa: E402


def extents(file):
    """The ranges that are not holes."""
    size, at, found = os.fstat(file.fileno()).st_size, 0, []
    while at < size:
        try:
            start = os.lseek(file.fileno(), at, os.SEEK_DATA)
        except OSError:
            break
        at = os.lseek(file.fileno(), start, os.SEEK_HOLE)
        found.append((start, at))
    return found


def require_equal_bytes(path, other):
    with open(path, "rb") as a, open(other, "rb") as b:
        sizes = os.fstat(a.fileno()).st_size, os.fstat(b.fileno()).st_size
        if sizes[0] != sizes[1]:
            sys.exit(f"{path}: {sizes[0]} bytes, torch.save wrote {sizes[1]}")
        for start, stop in extents(a) + extents(b):
            for at in range(start, stop, 1 << 24):
                a.seek(at)
                b.seek(at)
                length = min(stop - at, 1 << 24)
                if a.read(length) != b.read(length):
                    sys.exit(f"{path}: differs from torch.save's file within {length} bytes from {at}")


def require_tensors(path, mmap):
    loaded = torch.load(path, mmap=mmap, weights_only=True)
    for name, expected in make_large.tensors().items():
        found = loaded[name]
        if found.dtype != expected.dtype or found.shape != expected.shape:
            sys.exit(f"{path}: {name} is {found.dtype} {tuple(found.shape)} with mmap={mmap}")
        if found.numel() < 100:
            same = torch.equal(found, expected)
        else:
            same = not found[:: 1 << 20].any() and not found[-100:].any()
        if not same:
            sys.exit(f"{path}: {name} has other values with mmap={mmap}")


def available_bytes():
    with open("/proc/meminfo") as info:
        return next(int(line.split()[1]) * 1024 for line in info if line.startswith("MemAvailable"))


def main(path):
    require_tensors(path, mmap=True)
    print("torch.load(mmap=True): equal")
    if available_bytes() > 1.3 * os.path.getsize(path):
        require_tensors(path, mmap=False)
        print("torch.load(mmap=False): equal")
    else:
        print("torch.load(mmap=False): left out, not enough free memory")
    with tempfile.TemporaryDirectory() as directory:
        other = os.path.join(directory, "torch.pt")
        make_large.save(other)
        require_equal_bytes(path, other)
    print("torch.save writes the same bytes")


if __name__ == "__main__":
    main(sys.argv[1])
