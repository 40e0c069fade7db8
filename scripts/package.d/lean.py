"""Takes out of the jars of a local run, in place, what none uses, and native code to where it runs.

python lean.py DIRECTORY NATIVE

- Beam's own gRPC: the network library Netty, since no connection is opened through it.
- Byte Buddy: its classes once more, as compiled for Java 9.
- Snappy: native code for systems that nobody trains on. That of Linux and macOS also goes to
  NATIVE/SYSTEM-MACHINE/, as `uname` says: out of the jar Snappy puts it into the directory for
  temporary files, where many clusters let nobody run anything.
"""

import os
import re
import sys
import zipfile

directory, native = sys.argv[1:]

UNUSED = {
    "beam-vendor-grpc": r"META-INF/native/|.*/io/netty/",
    "byte-buddy": r"META-INF/versions/9/",
    "snappy-java": r"org/xerial/snappy/native/(?!Linux/|Mac/)",
}
NATIVE_OF = {
    "Linux/x86_64": "Linux-x86_64",
    "Linux/aarch64": "Linux-aarch64",
    "Mac/x86_64": "Darwin-x86_64",
    "Mac/aarch64": "Darwin-arm64",
}

for library, unused in UNUSED.items():
    (name,) = [jar for jar in os.listdir(directory) if re.match(rf"{library}-[0-9]", jar)]
    path = os.path.join(directory, name)
    lean = path + ".lean"
    with zipfile.ZipFile(path) as jar, zipfile.ZipFile(lean, "w") as out:
        for entry in jar.infolist():
            content = jar.read(entry)
            system, _, file = entry.filename.partition("org/xerial/snappy/native/")[2].rpartition("/")
            if system in NATIVE_OF and file:
                os.makedirs(os.path.join(native, NATIVE_OF[system]))
                with open(os.path.join(native, NATIVE_OF[system], file), "wb") as beside:
                    beside.write(content)
            if not entry.filename.endswith("/") and not re.match(unused, entry.filename):
                out.writestr(entry, content, compress_type=zipfile.ZIP_DEFLATED)
    assert os.path.getsize(lean) < os.path.getsize(path), name
    os.replace(lean, path)
