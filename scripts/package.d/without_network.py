"""Takes the network library of Beam's own gRPC, which no local run uses, out of jars, in place.

python without_network.py JAR...
"""

import os
import sys
import zipfile

for path in sys.argv[1:]:
    lean = path + ".lean"
    with zipfile.ZipFile(path) as jar, zipfile.ZipFile(lean, "w", zipfile.ZIP_DEFLATED) as out:
        for entry in jar.infolist():
            name = entry.filename
            if not name.endswith("/") and not name.startswith("META-INF/native/") and "/io/netty/" not in name:
                out.writestr(entry, jar.read(entry), compress_type=zipfile.ZIP_DEFLATED)
    os.replace(lean, path)
