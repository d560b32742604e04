"""What the recorder costs a CPU-bound run: `python -m tests.bench.recorder LABRUN [SECONDS]`.

A pure loop runs under `labrun exec`, without and with a portal and `labrun record` beside it, and prints ten
metrics a second in both cases. The cost is counted as processor time of our two programs: wall time on a
busy machine tells more of what else it does. Both are printed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

LOOP = """
import sys, time
rounds, lines = int(sys.argv[1]), int(sys.argv[2])
x = 0
began = time.process_time()
for line in range(lines):
    for i in range(rounds // lines):
        x = (x * 31 + i) % 1000003
    print(f'labcluster: step={line} loss={x}', flush=True)
print('loop', time.process_time() - began, flush=True)
"""


class StandIn(BaseHTTPRequestHandler):
    """As much of MLflow as the recorder needs."""

    protocol_version = "HTTP/1.1"

    def _answer(self) -> None:
        self.rfile.read(int(self.headers.get("content-length") or 0))
        info = {
            "run_id": "r",
            "experiment_id": "1",
            "status": "RUNNING",
            "artifact_uri": "mlflow-artifacts:/1/r",
        }
        run = {"info": info, "data": {}}
        body = json.dumps({"experiment": {"experiment_id": "1"}, "run": run, "runs": [run]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_PUT = _answer  # noqa: N815 - the names that http.server looks for

    def log_message(self, format: str, *args: object) -> None:
        """Requests are no news."""


def cpu_seconds(pid: int) -> float:
    """Processor time that a process has used, without its children."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def once(labrun: str, portal: str | None, rounds: int, lines: int) -> dict[str, float]:
    """One run; its wall time, the loop's processor time, and that of labrun's two processes."""
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        directory, tools = base / "1_0_loop", base / "tools"
        tools.mkdir()
        (base / "token").write_text("proof")
        run = {"id": "vision-1", "name": "loop", "project": "vision", "user": "ada", "attempt": 1}
        environment = os.environ | {
            "LABCLUSTER_RUN": json.dumps({**run, "command": ["loop"], "workdir": folder}),
            "LABCLUSTER_RUN_DIR": str(directory),
            "LABCLUSTER_PROJECT": "vision",
            "LABRUN_TOKEN_FILE": str(base / "token"),
            "LABRUN_TOOLS": str(tools),
        }
        if portal:
            environment["LABCLUSTER_PORTAL"] = portal
        subprocess.run([labrun, "prepare", "--to", str(tools)], env=environment, check=True)
        beside = [labrun, "record", "--tools", str(tools)]
        sidecar = subprocess.Popen(beside, env=environment) if portal else None
        began = time.monotonic()
        command = [labrun, "exec", "--", sys.executable, "-c", LOOP, str(rounds), str(lines)]
        main = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        ours, loop = 0.0, 0.0
        assert main.stdout
        for line in main.stdout:
            ours = cpu_seconds(main.pid) + (cpu_seconds(sidecar.pid) if sidecar else 0.0)
            if line.startswith("loop "):
                loop = float(line.split()[1])
        main.wait()
        wall = time.monotonic() - began
        if sidecar:
            sidecar.terminate()
            sidecar.wait()
        subprocess.run(["chmod", "-R", "u+w", str(directory)], check=True)
        return {"wall": wall, "loop": loop, "ours": ours}


def main() -> None:
    """Measure and print."""
    labrun, seconds = sys.argv[1], float(sys.argv[2]) if len(sys.argv) > 2 else 30.0
    server = ThreadingHTTPServer(("127.0.0.1", 0), StandIn)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    portal = f"http://127.0.0.1:{server.server_address[1]}"
    speed = once(labrun, None, 2_000_000, 10)["loop"] / 2_000_000
    rounds, lines = int(seconds / speed), int(seconds * 10)
    figures: dict[str, list[dict[str, Any]]] = {"without": [], "with": []}
    for _ in range(2):
        figures["without"].append(once(labrun, None, rounds, lines))
        figures["with"].append(once(labrun, portal, rounds, lines))
    for name, runs in figures.items():
        best = min(runs, key=lambda one: one["wall"])
        share = 100 * best["ours"] / best["loop"]
        wall, loop, ours = best["wall"], best["loop"], best["ours"]
        print(
            f"{name:8} wall {wall:.2f} s, loop {loop:.2f} s, labrun {ours:.2f} s ({share:.2f} %)",
            flush=True,
        )
    server.shutdown()


if __name__ == "__main__":
    main()
