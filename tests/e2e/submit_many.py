"""Submits many runs from several clients at once; sent to the login node by ssh: standard library only.

usage: python3 submit_many.py TAG COUNT CLIENTS EVERY    one run in EVERY asks for no GPUs and runs at once
prints [{"name": …, "code": exit status of labctl, "out": …, "err": …}, …]
"""

import concurrent.futures
import json
import subprocess
import sys


def submit(tag, index, every):
    """One `labctl submit`; each command that is really run leaves its id in the project's data."""
    name = f"{tag}-{index}"
    words = ["labctl", "submit", "--project", "vision", "--name", name, "--memory", "128M", "--cpus", "0.1"]
    words += [] if index % every == 0 else ["--gpus", "4"]
    words += ["--", "sh", "-c", f"echo $LABCLUSTER_RUN_ID >> /lab/projects/vision/data/{tag}"]
    done = subprocess.run(words, cwd="/lab/projects/vision", capture_output=True, text=True)
    return {"name": name, "code": done.returncode, "out": done.stdout.strip(), "err": done.stderr.strip()}


if __name__ == "__main__":
    tag, count, clients, every = sys.argv[1], *map(int, sys.argv[2:5])
    with concurrent.futures.ThreadPoolExecutor(clients) as pool:
        print(json.dumps(list(pool.map(lambda index: submit(tag, index, every), range(count)))))
