"""Takes samples on the login node; sent there through ssh, so standard library only.

usage: python3 on_login.py FIGURE COUNT     prints {"series": [milliseconds, …], …}; figures are at the end
"""

import concurrent.futures
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

# A run is over for its user seconds before its pod, Job and queue entry are.
SETTLE = 4
# Where the site puts labctl's packages: its client, munge credentials and all, is the one that is measured.
LABCTL = "/opt/labcluster/lib/site-packages"
CLIENTS = 8
SUBMIT = ["labctl", "submit", "--memory", "64M", "--name", "bench"]
MEMBERS = 500
# Submits a second of the steady load.
RATE = 10
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


def measure_capsule(count):
    """`labctl submit` in a git repository of 500 files, in turns with its code kept and without."""
    git = ["git", "-c", "user.name=bench", "-c", "user.email=bench@lab.internal"]
    series = {"kept": [], "plain": []}
    project, gpus = biggest()
    base = [*SUBMIT, "--project", project, "--gpus", str(gpus)]
    with tempfile.TemporaryDirectory(prefix="bench-", dir=Path.home()) as folder:
        os.chdir(folder)
        for number in range(500):
            Path(f"module{number}.py").write_text(f"x = {number}\n" * 100)
        timed([*git, "init", "--quiet"])
        timed([*git, "add", "--all"])
        timed([*git, "commit", "--quiet", "--message", "bench"])
        Path("module1.py").write_text("x = 'changed'\n")
        time.sleep(3)
        for turn in range(count + 1):
            for name, options in (("kept", []), ("plain", ["--no-code"])):
                took, run = timed([*base, *options, "--", "true"])
                timed(["labctl", "cancel", run.strip()])
                if turn:  # the first one packs the code
                    series[name].append(took)
        os.chdir("/")
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


def connect():
    """A client of the portal as labctl's is."""
    sys.path.append(LABCTL)
    from labcluster.cli.session import build

    return build()


def biggest():
    """A project and as many GPUs of it as one run may have: such runs wait, and few pods get in the way."""
    me = connect().get("/whoami")
    nodes = connect().get("/nodes")["items"]
    most = max(node["gpus"] for node in nodes)
    project = max(me["projects"], key=lambda project: project["max_gpus"])
    return project["name"], min(most, project["max_gpus"])


def client(number, count, project, gpus, gate, results):
    """One client of several: submits over one connection, and then ends what it submitted."""
    portal = connect()
    portal.get("/whoami")
    request = {"command": ["true"], "workdir": str(Path.cwd()), "project": project, "name": "bench"}
    request |= {"gpus": gpus, "cpus": 0.1, "memory": "64Mi", "env": {"CLIENT": str(number)}}
    gate.wait()
    began, samples, runs = time.time(), [], []
    for _ in range(count):
        start = time.perf_counter()
        run = portal.post("/runs", request | {"idempotency_key": os.urandom(16).hex()})
        samples.append((time.perf_counter() - start) * 1000)
        runs.append(run["id"])
    results.put((began, time.time(), samples))
    gate.wait()
    for run in runs:
        portal.post(f"/runs/{run}/cancel")


def measure_rate(count):
    """Submits of eight clients at once, each with the answer that its row is committed."""
    project, gpus = biggest()
    gate, results = multiprocessing.Barrier(CLIENTS), multiprocessing.Queue()
    share = count // CLIENTS
    arguments = (share, project, gpus, gate, results)
    clients = [multiprocessing.Process(target=client, args=(n, *arguments)) for n in range(CLIENTS)]
    for process in clients:
        process.start()
    ended = [results.get(timeout=300) for _ in clients]
    for process in clients:
        process.join()
    seconds = max(end for _, end, _ in ended) - min(began for began, _, _ in ended)
    answers = [sample for _, _, samples in ended for sample in samples]
    return {"answer": answers, "each": [seconds * 1000 / len(answers)]}


def measure_array(count):
    """`labctl submit --array` of so many members that none is made twice."""
    project, gpus = biggest()
    series = {"array": []}
    words = [
        "labctl",
        "submit",
        "--project",
        project,
        "--gpus",
        str(gpus),
        "--memory",
        "64M",
        "--name",
        "bench",
    ]
    for _ in range(count):
        took, run = timed([*words, "--array", f"0-{MEMBERS - 1}%20", "--", "true"])
        series["array"].append(took)
        timed(["labctl", "cancel", run.strip()])
        time.sleep(SETTLE)
    return series


def measure_bulk(count):
    """`labctl submit --file` of as many lines."""
    project, gpus = biggest()
    series = {"bulk": []}
    words = [
        "labctl",
        "submit",
        "--project",
        project,
        "--gpus",
        str(gpus),
        "--memory",
        "64M",
        "--name",
        "bench",
    ]
    for _ in range(count):
        with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
            for line in range(MEMBERS):
                file.write(json.dumps({"command": ["true"], "env": {"LINE": line}}) + "\n")
            file.flush()
            took, runs = timed([*words, "--file", file.name])
        series["bulk"].append(took)
        portal = connect()
        for run in runs.split():
            portal.post(f"/runs/{run}/cancel")
        time.sleep(SETTLE)
    return series


def measure_steady(count):
    """Ten submits a second over kept connections: {run: [when its submit began, seconds since 1970]}."""
    own, first = threading.local(), time.time()
    request = {"command": ["true"], "workdir": "/lab/projects/vision", "project": "vision", "name": "bench"}

    def submit(index):
        if not hasattr(own, "portal"):
            own.portal = connect()
        time.sleep(max(0.0, first + index / RATE - time.time()))
        began = time.time()
        body = request | {"gpus": 1, "memory": "256Mi", "idempotency_key": os.urandom(16).hex()}
        return own.portal.post("/runs", body)["id"], [began]

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        return dict(pool.map(submit, range(count)))


if __name__ == "__main__":
    measures = {
        "help": measure_help,
        "submit": measure_submit,
        "capsule": measure_capsule,
        "start": measure_start,
        "rate": measure_rate,
        "array": measure_array,
        "bulk": measure_bulk,
        "steady": measure_steady,
    }

    print(json.dumps(measures[sys.argv[1]](int(sys.argv[2]))))
