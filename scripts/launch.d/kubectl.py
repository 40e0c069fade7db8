"""In the place of kubectl: `apply -f FILE` runs the pod of a job to its end here, $DATA being its volume.

Init containers run one after the other; one that is always restarted is a sidecar, which runs until
the containers have ended and then gets SIGTERM. `delete` has nothing to do.
"""

import os
import subprocess
import sys

import yaml


def start(container):
    assert container["command"] == ["sh", "-c"] and container["volumeMounts"][0]["mountPath"] == "/data"
    (command,) = container["args"]
    for variable in container.get("env", []):
        command = command.replace(f"$({variable['name']})", variable["value"])
    return subprocess.Popen(["sh", "-c", command.replace("/data", os.environ["DATA"])])


def apply(file):
    with open(file, encoding="utf-8") as text:
        pod = yaml.safe_load(text)["spec"]["template"]["spec"]
    sidecars = []
    status = 0
    for container in pod["initContainers"]:
        process = start(container)
        if container.get("restartPolicy") == "Always":
            sidecars.append(process)
        elif process.wait() != 0:
            status = process.returncode
            break
    if status == 0:
        status = max(process.wait() for process in [start(one) for one in pod["containers"]])
    for sidecar in sidecars:
        sidecar.terminate()
        if sidecar.wait(30) != 0:
            status = status or sidecar.returncode
    return status


if sys.argv[1:3] == ["apply", "-f"]:
    sys.exit(apply(sys.argv[3]))
elif sys.argv[1] != "delete":
    sys.exit(f"kubectl: what is {sys.argv[1:]}?")
