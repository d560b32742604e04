"""Submits many runs from several clients at once; sent to the login node by ssh: standard library only.

usage: python3 submit_many.py TAG COUNT CLIENTS EVERY FILE
One run in EVERY asks for no GPUs and runs at once. There are COUNT, and more as long as FILE is there;
prints [{"name": …, "code": exit status of labctl, "out": …, "err": …}, …]
"""

import concurrent.futures
import itertools
import json
import subprocess
import sys
from pathlib import Path


def submit(tag, index, every):
    """One `labctl submit`; each command that is really run leaves its id in the project's data."""
    name = f"{tag}-{index}"
    words = ["labctl", "submit", "--project", "vision", "--name", name, "--memory", "128M", "--cpus", "0.1"]
    words += [] if index % every == 0 else ["--gpus", "4"]
    words += ["--", "sh", "-c", f"echo $LABCLUSTER_RUN_ID >> /lab/projects/vision/data/{tag}"]
    done = subprocess.run(words, cwd="/lab/projects/vision", capture_output=True, text=True)
    return {"name": name, "code": done.returncode, "out": done.stdout.strip(), "err": done.stderr.strip()}


def indexes(count, file):
    """0, 1, … until there were enough and nobody wants more."""
    for index in itertools.count():
        if index >= count and not Path(file).exists():
            return
        yield index


if __name__ == "__main__":
    tag, file, count, clients, every = sys.argv[1], sys.argv[5], *map(int, sys.argv[2:5])
    with concurrent.futures.ThreadPoolExecutor(clients) as pool:
        answers, waiting = [], set()
        for index in indexes(count, file):
            waiting.add(pool.submit(submit, tag, index, every))
            if len(waiting) == clients:
                done, waiting = concurrent.futures.wait(waiting, return_when="FIRST_COMPLETED")
                answers += [one.result() for one in done]
        print(json.dumps(answers + [one.result() for one in waiting]))
