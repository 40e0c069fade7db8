"""Makes the bucket `bucket` in an emulator of Google Cloud Storage: try_bucket.py PORT."""

import json
import sys
import time
import urllib.error
import urllib.request

place = f"http://127.0.0.1:{sys.argv[1]}/storage/v1/b?project=emulated"
request = urllib.request.Request(
    place, json.dumps({"name": "bucket"}).encode(), {"Content-Type": "application/json"})
for _ in range(600):
    try:
        urllib.request.urlopen(request).read()
        break
    except urllib.error.URLError:
        time.sleep(0.1)
else:
    sys.exit("the emulator did not start")
