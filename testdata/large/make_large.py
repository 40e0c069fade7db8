"""Writes skeleton.txt beside this script: what torch.save (PyTorch 2.6.0) puts around storages beyond 4 GiB.

The file itself, 9 GiB of zeros, goes to the path given as argument, sparse. Every byte that is not in one of the two big
storages is in skeleton.txt, as lines `OFFSET HEX`.
"""

import pathlib
import struct
import sys

import numpy
import torch

BIG = 4831838208  # 4.5 GiB


class SparseFile:
    """Seeks over zeros instead of writing them."""

    def __init__(self, path):
        self.file = open(path, "wb")

    def write(self, data):
        view = memoryview(data)
        if len(view) > 4096 and not numpy.frombuffer(view, dtype=numpy.uint8).any():
            self.file.seek(len(view), 1)
        else:
            self.file.write(view)
        return len(view)

    def flush(self):
        self.file.flush()

    def close(self):
        self.file.truncate()
        self.file.close()


def tensors():
    return {
        "a": torch.arange(3, dtype=torch.float32),
        "big": torch.zeros(BIG, dtype=torch.uint8),
        "e": torch.empty(0),
        "c": torch.arange(5, dtype=torch.int64),
        "big2": torch.zeros(BIG, dtype=torch.uint8),
    }


def save(path):
    out = SparseFile(path)
    torch.save(tensors(), out)
    out.close()


def main(path):
    save(path)
    with open(path, "rb") as file:
        size = file.seek(0, 2)

        def read(at, length):
            file.seek(at)
            return file.read(length)

        end = read(size - 22 - 20 - 56, 56)
        directory_bytes, at = struct.unpack("<QQ", end[40:56])
        directory = read(at, directory_bytes)
        cuts, pickle, ident, position = [], None, None, 0
        while position < directory_bytes:
            fields = struct.unpack("<IHHHHHHIIIHHHHHII", directory[position : position + 46])
            name_bytes, extra_bytes = fields[10], fields[11]
            name = directory[position + 46 : position + 46 + name_bytes].decode()
            extra = directory[position + 46 + name_bytes : position + 46 + name_bytes + extra_bytes]
            length, header = fields[9], fields[16]
            if length == 0xFFFFFFFF:
                length = struct.unpack("<Q", extra[4:12])[0]
            if header == 0xFFFFFFFF:
                header = struct.unpack("<Q", extra[-8:])[0]
            local = read(header, 30)
            payload = header + 30 + sum(struct.unpack("<HH", local[26:30]))
            if length == BIG:
                cuts.append(payload)
            elif name.endswith("data.pkl"):
                pickle = read(payload, length).hex()
            elif name.endswith("serialization_id"):
                ident = read(payload, length).decode()
            position += 46 + name_bytes + extra_bytes
        starts = [0] + [cut + BIG for cut in cuts]
        stops = cuts + [size]
        lines = [f"{start} {read(start, stop - start).hex()}" for start, stop in zip(starts, stops)]
    text = "\n".join([f"bytes {size}", f"pickle {pickle}", f"serialization_id {ident}"] + lines) + "\n"
    (pathlib.Path(__file__).parent / "skeleton.txt").write_text(text)


if __name__ == "__main__":
    main(sys.argv[1])
