"""Machines of qemu: a disk of their own over the image, one card to this machine and one to each other.

No bridge, no tap: the first card is user-mode networking (ssh comes in through a port of this machine's
loopback), the second is a wire between the two, datagrams over loopback. A machine dies with the process that
started it, and its folder goes with it.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from image import ADMIN, Image

MEMORY_MIB = 512
#: qemu would keep up to 1 GiB of translated code of each.
TRANSLATED_MIB = 96
BOOT_SECONDS = 600.0
#: Emulation works everywhere; LABCLUSTER_VMS_ACCEL=kvm is many times faster where there is KVM.
ACCELERATOR = os.environ.get("LABCLUSTER_VMS_ACCEL", "tcg")


class MachineError(Exception):
    """A machine did not do what it was told; the message names the file to read."""


@dataclass(frozen=True)
class Done:
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def said(self) -> str:
        """All that it printed."""
        return self.out + self.err


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    """A port of loopback that nobody uses now."""
    with socket.socket(socket.AF_INET, kind) as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@dataclass
class Machine:
    """One machine. `wire`: its own and the other's port of the data network; `extra_mib`: a second disk."""

    name: str
    image: Image
    folder: Path
    address: str
    wire: tuple[int, int]
    extra_mib: int = 0
    ssh_port: int = field(default_factory=free_port)
    _process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Power on; the disks keep what they had."""
        if not self._disk.exists():
            _qemu_img("-F", "raw", "-b", str(self.image.disk), str(self._disk))
        if self.extra_mib and not self._extra.exists():
            _qemu_img(str(self._extra), f"{self.extra_mib}M")
        with (self.folder / f"{self.name}.qemu").open("ab") as log:
            # setpriv: nobody may be left behind when the tests are killed.
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *self._command()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def wait(self) -> None:
        """Until ssh answers."""
        deadline = time.monotonic() + BOOT_SECONDS
        while self.run("true", timeout=60).code != 0:
            if self._process is None or self._process.poll() is not None or time.monotonic() > deadline:
                raise MachineError(
                    f"{self.name} did not start: read {self.folder}/{self.name}.console and .qemu"
                )
            time.sleep(2)

    def pull_the_plug(self) -> None:
        """Off, at once: what was not on the disk is gone."""
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None

    def ssh(self) -> list[str]:
        """ssh as far as the host's name."""
        return ["ssh", "-F", str(self.folder / "ssh_config"), self.name]

    def run(self, command: str, *, timeout: float = 180, stdin: str | None = None) -> Done:
        """A shell command as root. A machine that hangs gives code 124."""
        script = command if stdin is None else stdin
        words = ["sudo", "sh", "-s"] if stdin is None else ["sudo", *command.split()]
        try:
            done = subprocess.run(
                [*self.ssh(), "--", *words],
                input=script,
                capture_output=True,
                text=True,
                timeout=timeout,
                check=False,
            )
        except subprocess.TimeoutExpired as late:
            return Done(124, _text(late.stdout), _text(late.stderr))
        return Done(done.returncode, done.stdout, done.stderr)

    def check(self, command: str, *, timeout: float = 180, stdin: str | None = None) -> str:
        """The same, whose failure is an error."""
        done = self.run(command, timeout=timeout, stdin=stdin)
        if done.code:
            raise MachineError(
                f"{self.name}: {command!r} failed with exit code {done.code}: {done.said[-2000:]}"
            )
        return done.out

    @property
    def _disk(self) -> Path:
        return self.folder / f"{self.name}.qcow2"

    @property
    def _extra(self) -> Path:
        return self.folder / f"{self.name}-data.qcow2"

    def _command(self) -> Sequence[str]:
        mine, other = self.wire
        number = self.address.rsplit(".", 1)[1]
        accelerator = f"tcg,tb-size={TRANSLATED_MIB}" if ACCELERATOR == "tcg" else ACCELERATOR
        console = f"file,id=console,path={self.folder}/{self.name}.console,append=on"
        disks = [self._disk, *([self._extra] if self.extra_mib else [])]
        return [
            "qemu-system-x86_64", "-name", self.name, "-nodefaults", "-no-user-config", "-display", "none",
            "-machine", "q35", "-accel", accelerator, "-cpu", "max,arch-capabilities=off",
            "-m", str(MEMORY_MIB), "-smp", "1", "-rtc", "base=utc", "-device", "virtio-rng-pci",
            "-kernel", str(self.image.kernel), "-initrd", str(self.image.initrd),
            "-append", "root=LABEL=root rw console=ttyS0 net.ifnames=0 mitigations=off panic=-1",
            "-chardev", console, "-serial", "chardev:console",
            *(word for disk in disks for word in ("-drive", f"file={disk},if=virtio,format=qcow2")),
            "-netdev", f"user,id=management,net={self.address}/24,dhcpstart={self.address},"
                       f"hostfwd=tcp:127.0.0.1:{self.ssh_port}-{self.address}:22",
            "-device", f"virtio-net-pci,netdev=management,mac=52:54:00:78:00:{int(number):02x},romfile=",
            "-netdev", "dgram,id=data,local.type=inet,local.host=127.0.0.1,"
                       f"local.port={mine},remote.type=inet,remote.host=127.0.0.1,remote.port={other}",
            "-device", f"virtio-net-pci,netdev=data,mac=52:54:00:78:01:{int(number):02x},romfile=",
        ]  # fmt: skip


def write_ssh_config(folder: Path, machines: Sequence[Machine]) -> Path:
    """ssh settings that lead to the machines by name and by the address that the inventory gives them."""
    image = machines[0].image
    (folder / "known_hosts").write_text("".join(f"{machine.name} {image.host_key}\n" for machine in machines))
    lines = []
    for machine in machines:
        lines += [
            f"Host {machine.name} {machine.address}",
            f"  Port {machine.ssh_port}",
            f"  HostKeyAlias {machine.name}",
        ]
    lines += [
        "Host *",
        "  HostName 127.0.0.1",
        f"  User {ADMIN}",
        f"  IdentityFile {image.admin_key}",
        "  IdentitiesOnly yes",
        f"  UserKnownHostsFile {folder}/known_hosts",
        "  GlobalKnownHostsFile /dev/null",
        "  StrictHostKeyChecking yes",
        "  LogLevel ERROR",
        "  BatchMode yes",
        "  ConnectTimeout 30",
        "  ServerAliveInterval 15",
        "  ServerAliveCountMax 8",
        # A new connection costs an emulated machine seconds.
        "  ControlMaster auto",
        "  ControlPath /tmp/labcluster-vms-%C",
        "  ControlPersist 60s",
    ]
    (folder / "ssh_config").write_text("\n".join(lines) + "\n")
    return folder / "ssh_config"


def clear(folder: Path) -> None:
    """Remove the rest of an interrupted run: its machines are dead already, its files are not."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    folder.chmod(0o700)


def _qemu_img(*arguments: str) -> None:
    command = ["qemu-img", "create", "-q", "-f", "qcow2", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise MachineError(f"qemu-img: {done.stderr}")


def _text(data: bytes | str | None) -> str:
    return data.decode(errors="replace") if isinstance(data, bytes) else data or ""
