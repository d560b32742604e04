"""Takes samples on the login node; sent there through ssh, so standard library only.

usage: python3 on_login.py help|submit|start COUNT     prints {"series": [milliseconds, …], …}
"""

import json
import subprocess
import sys
import time

# A run is over for its user seconds before its pod, Job and queue entry are.
SETTLE = 4
PYTHON = ["/usr/bin/python3", "-IS", "-c", "pass"]


def timed(command):
    """Milliseconds that a command takes, and what it prints."""
    began = time.perf_counter()
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    took = (time.perf_counter() - began) * 1000
    if done.returncode:
        sys.exit(f"{' '.join(command)}: {done.stderr.strip()}")
    return took, done.stdout


def end(run):
    """A run after its end."""
    while True:
        state = json.loads(timed(["labctl", "show", run, "--json"])[1])
        if state["finished_at"]:
            return state
        time.sleep(0.2)


def measure_help(count):
    """`labctl --help` beside the bare interpreter, in turns, so that both meet the same machine."""
    series = {"bare": [], "help": []}
    for _ in range(count):
        series["bare"].append(timed(PYTHON)[0])
        series["help"].append(timed(["labctl", "--help"])[0])
    return series


def measure_submit(count):
    """`labctl submit`; nodes and client share their cores here, so each pod is let go before the next run."""
    series = {"bare": [], "submit": []}
    for _ in range(count):
        series["bare"].append(timed(PYTHON)[0])
        took, run = timed(["labctl", "submit", "--name", "bench", "--memory", "256M", "--", "true"])
        series["submit"].append(took)
        end(run.strip())
        time.sleep(SETTLE)
    return series


def measure_start(count):
    """From `labctl submit` to the first moment of the command, by the one clock of all lab hosts."""
    series = {"start": []}
    for _ in range(count):
        began = time.time()
        words = ["labctl", "submit", "--name", "bench", "--memory", "256M", "--", "date", "+%s.%N"]
        run = timed(words)[1].strip()
        state = end(run)
        if state["state"] != "succeeded":
            sys.exit(f"{run} {state['state']}: {state['reason']}")
        series["start"].append((float(timed(["labctl", "logs", run])[1]) - began) * 1000)
        time.sleep(1)
    return series


if __name__ == "__main__":
    measures = {"help": measure_help, "submit": measure_submit, "start": measure_start}
    print(json.dumps(measures[sys.argv[1]](int(sys.argv[2]))))
