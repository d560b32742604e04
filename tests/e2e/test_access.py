"""Into one's own running run, from the login node: shell, files, ports; and nobody else's."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import select
import shlex
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import key_of

pytestmark = pytest.mark.e2e

# In `shared`, where bo is a member too: he may see the run, but not enter it.
SUBMIT = "labctl submit --project shared --memory 512M --cpus 0.5 --json --name access --"
PORT, LOCAL = 8123, 18123


@pytest.fixture(scope="module")
def ada(ssh_as: Callable[..., Any]) -> Any:
    """The owner of the run."""
    return ssh_as("ada")


@pytest.fixture(scope="module")
def bo(ssh_as: Callable[..., Any]) -> Any:
    """Another member of its project."""
    return ssh_as("bo")


@pytest.fixture(scope="module")
def run(ada: Any) -> Iterator[str]:
    """A run that serves a web page inside its pod, until all is tested."""
    name: str = json.loads(good(ada(f"{SUBMIT} python3 -m http.server {PORT} --bind 127.0.0.1")))["id"]
    try:
        good(ada(f"labctl shell --wait {name} -- true", timeout=120))
        yield name
    finally:
        ada(f"labctl cancel {name}")


def good(done: Any) -> str:
    """The output of a command that must have worked."""
    assert done.code == 0, done.err
    return str(done.out)


def test_a_command_has_the_runs_identity_place_and_environment(ada: Any, run: str) -> None:
    script = 'id -u; pwd; echo "$LABCLUSTER_RUN_ID $NVIDIA_VISIBLE_DEVICES"; cat; exit 7'
    done = ada(f"cd /tmp; labctl shell {run} -- {shlex.quote(script)}", stdin=b"\x00bytes\xff\n"[1:6])
    here = json.loads(good(ada(f"labctl show {run} --json")))
    assert done.code == 7, done.err
    assert done.out.splitlines() == [str(here["uid"]), here["workdir"], f"{run} void", "bytes"]


def test_the_run_is_a_host_to_ssh(ada: Any, run: str) -> None:
    done = ada(f"ssh {run}.labcluster 'hostname; exit 3'")
    assert (done.code, done.err) == (3, "")
    assert done.out.startswith(f"run-{run}")
    # The only running run of hers may be left unnamed; the tests before this may have left others.
    assert "rank" in ada(f"ssh rank5.{run}.labcluster true").err


def test_files_arrive_unchanged_both_ways(ada: Any, run: str) -> None:
    script = f"""
        set -e
        folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT; cd "$folder"
        head -c 20000000 /dev/urandom > sent
        scp -q sent {run}.labcluster:/tmp/there
        ssh {run}.labcluster sha256sum /tmp/there | cut -d' ' -f1
        sha256sum sent | cut -d' ' -f1
        echo 'get /tmp/there got' | sftp -q -b - {run}.labcluster > /dev/null
        sha256sum got | cut -d' ' -f1
        ssh {run}.labcluster 'cat > /tmp/piped; sha256sum /tmp/piped' < sent | cut -d' ' -f1
    """
    digests = good(ada(f"bash -c {shlex.quote(script)}", timeout=120)).split()
    assert len(digests) == 4
    assert len(set(digests)) == 1


def test_a_terminal_has_a_size_that_follows(site: Any, ssh_config: Path, run: str) -> None:
    with terminal(site, ssh_config, f"labctl shell {run}") as (process, screen):
        typed = 'echo "<$TERM $(stty size)>"\n'
        resize(process, screen, 30, 100)
        os.write(screen, typed.encode())
        assert "<xterm-256color 30 100>" in read_until(screen, r"<xterm-256color \d+ \d+>")
        resize(process, screen, 41, 132)
        os.write(screen, b'sleep 0.3; echo "<$(stty size)>"\n')
        assert "<41 132>" in read_until(screen, r"<\d+ \d+>")
        os.write(screen, b"exit 5\n")
        assert process.wait(timeout=20) == 5


@contextlib.contextmanager
def terminal(site: Any, ssh_config: Path, command: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """ada at a terminal on the login node."""
    screen, theirs = pty.openpty()
    words = ["ssh", "-F", str(ssh_config), "-i", str(key_of(site, "ada")), "-tt", "-l", "ada"]
    words += ["-o", "ControlPath=none", site.first("login"), "--", command]
    process = subprocess.Popen(
        words,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=os.environ | {"TERM": "xterm-256color"},
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(theirs)
    try:
        read_until(screen, r"[$#] ")
        yield process, screen
    finally:
        process.kill()
        process.wait()
        os.close(screen)


def resize(process: subprocess.Popen[bytes], screen: int, rows: int, columns: int) -> None:
    """As a window manager does."""
    fcntl.ioctl(screen, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    process.send_signal(signal.SIGWINCH)


def read_until(screen: int, pattern: str, seconds: float = 30) -> str:
    """What appears on the screen, until it matches."""
    seen, deadline = "", time.monotonic() + seconds
    while not re.search(pattern, seen):
        ready, _, _ = select.select([screen], [], [], max(0.0, deadline - time.monotonic()))
        assert ready, f"no {pattern!r} in {seen!r}"
        seen += os.read(screen, 65536).decode(errors="replace")
    return seen


def test_a_port_of_the_run_is_reached_on_the_login_node(ada: Any, run: str) -> None:
    script = f"""
        labctl forward {run} {LOCAL}:{PORT} & forward=$!
        trap 'kill $forward' EXIT
        for turn in $(seq 100); do
            curl -fs -o /dev/null -w '%{{content_type}}' localhost:{LOCAL} && exit
            sleep 0.1
        done
        exit 1
    """
    assert good(ada(f"bash -c {shlex.quote(script)}")) == "text/html; charset=utf-8"


def test_nothing_of_a_session_stays_in_the_pod(ada: Any, run: str) -> None:
    left = "setsid sleep 4711 & (trap '' HUP; exec setsid sleep 4712) & echo started; sleep 4713"
    every = "for p in /proc/[0-9]*; do tr '\\0' ' ' < $p/cmdline; echo; done 2> /dev/null"
    looked = f"{every} | grep '^sleep 471' || echo none"
    script = f"""
        coproc ssh {run}.labcluster {shlex.quote(left)}
        read -r word <&${{COPROC[0]}}; echo $word
        kill -9 $COPROC_PID; pkill -9 -u $USER -f '^/usr/bin/python3.*labctl proxy {run}'
        for turn in $(seq 20); do
            found=$(ssh {run}.labcluster {shlex.quote(looked)})
            if [ "$found" = none ]; then break; fi
            sleep 0.5
        done
        echo "$found"
    """
    assert good(ada(f"bash -c {shlex.quote(script)}")).split() == ["started", "none"]


def test_nobody_else_enters(bo: Any, ada: Any, run: str, on_host: Callable[..., Any], site: Any) -> None:
    done = bo(f"labctl shell {run} -- id")
    assert (done.code, done.out) == (3, "")
    assert done.err == f"labctl: run {run} belongs to ada: only ada may enter it\n"
    # ssh asks the portal without asking first.
    done = bo(f"ssh {run}.labcluster id")
    assert (done.code, done.out) == (255, "")
    assert f"run {run} belongs to ada" in done.err
    # Even ada has no exec of Kubernetes of her own.
    kubectl = "kubectl --kubeconfig /etc/kubernetes/admin.conf --as ada --namespace project-shared"
    done = on_host(site.first("management"), f"{kubectl} exec job/run-{run} -- id")
    assert done.code != 0
    assert 'User "ada" cannot create resource "pods/exec"' in done.err


def test_sessions_are_written_down(ada: Any, run: str, on_host: Callable[..., Any], site: Any) -> None:
    good(ada(f"labctl shell {run} -- true"))
    management = site.first("management")
    kubectl = "kubectl --kubeconfig /etc/kubernetes/admin.conf --namespace labcluster"
    lines = good(
        on_host(management, f"{kubectl} logs deploy/portal -c web --since=5m | grep labcluster.audit")
    )
    said = [json.loads(line.partition("labcluster.audit ")[2]) for line in lines.splitlines()]
    end = [line for line in said if line["event"] == "session-end" and line["run"] == run][-1]
    start = next(line for line in said if line["session"] == end["session"])
    assert start["event"] == "session-start"
    assert (end["user"], end["end"], start["from"]) == ("ada", "left", site.hosts["login"]["ansible_host"])
    assert min(end["bytes_to_run"], end["bytes_from_run"]) > 1000
    # The API server writes in batches.
    found = ""
    for _ in range(20):
        log = 'tail -n 3000 /var/log/kubernetes/audit/audit.log | grep \'"subresource":"exec"\' | tail -n 20'
        found = on_host(management, log).out
        if start["pod"].partition("/")[2] in found:
            break
        time.sleep(0.5)
    event = next(
        found
        for found in map(json.loads, reversed(found.splitlines()))
        if found["objectRef"]["name"] in start["pod"]
    )
    assert event["impersonatedUser"]["username"] == "ada"
    assert "labcluster:shell" in event["impersonatedUser"]["groups"]
    assert event["user"]["username"] == "system:serviceaccount:labcluster:labcluster-portal"


def test_the_session_ends_with_the_run_and_an_ended_run_is_refused(ada: Any) -> None:
    name = json.loads(good(ada(f"{SUBMIT} sleep 6")))["id"]
    done = ada(f"labctl shell --wait {name} -- sleep 100", timeout=120)
    assert done.code == 255
    assert f"labctl: run {name} has ended, and this connection with it\n" in done.err
    done = ada(f"labctl shell {name}")
    assert (done.code, done.err) == (
        5,
        f"labctl: run {name} has ended (succeeded): labctl logs {name} shows what it printed\n",
    )
    assert f"run {name} has ended" in ada(f"ssh {name}.labcluster").err
    assert ada("labctl shell shared-999999").code == 4
    assert ada(f"labctl attach {name}").code == 0
