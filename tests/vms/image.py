"""The disk of a machine: Debian with its own kernel, from packages, made once and kept under build/.

A machine that labcluster is installed on has Debian 12, an address and an administrator; so has this one, and
what the roles would install, so that no package is fetched through an emulated network card.
"""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "images"))

from builder import machine  # noqa: E402

SUITE = "bookworm"
ADMIN = "labadmin"
DISK_MIB = 3072
# Beside what a lab's host has: a kernel with NFS and quotas, and what starts it.
_EXTRA = ["linux-image-cloud-amd64", "initramfs-tools", "zstd", "quota", "e2fsprogs"]
# A lab's host has these for what no machine here is: a cluster node, a backup host, a user's desk.
_NOT_HERE = {
    *(
        "runc",
        "containernetworking-plugins",
        "skopeo",
        "jq",
        "git",
        "restic",
        "munge",
        "socat",
        "curl",
        "less",
    ),
    *("vim-tiny", "rsync", "cron", "psmisc"),
}

_CUSTOMIZE = r"""
set -eu
root=$1
rm -f "$root"/etc/ssh/ssh_host_*
chroot "$root" useradd --uid 10000 --create-home --shell /bin/bash --password '*' labadmin
install -d -m 0700 -o 10000 -g 10000 "$root/home/labadmin/.ssh"
install -m 0600 -o 10000 -g 10000 "$2/admin_ed25519.pub" "$root/home/labadmin/.ssh/authorized_keys"
printf 'labadmin ALL=(ALL) NOPASSWD: ALL\n' > "$root/etc/sudoers.d/labadmin"
install -m 0600 "$2/host_ed25519" "$root/etc/ssh/ssh_host_ed25519_key"
printf 'LABEL=root / ext4 defaults,noatime 0 1\n' > "$root/etc/fstab"
cat > "$root/etc/systemd/network/10-eth0.network" <<END
[Match]
Name=eth0
[Network]
DHCP=ipv4
IPv6AcceptRA=no
END
printf 'nameserver 10.78.0.3\n' > "$root/etc/resolv.conf"
printf "127.0.0.1 localhost vm\n" > "$root/etc/hosts"
: > "$root/etc/machine-id"
rm -f "$root/var/lib/dbus/machine-id"
systemctl --root "$root" --quiet enable systemd-networkd ssh
for unit in nfs-server nfs-blkmap nfs-client.target rpcbind.service rpcbind.socket chrony sssd fstrim.timer \
  unattended-upgrades apt-daily.timer apt-daily-upgrade.timer e2scrub_reap e2scrub_all.timer; do
  systemctl --root "$root" --quiet disable "$unit" 2>/dev/null || true
done
systemctl --root "$root" --quiet mask getty@tty1.service systemd-networkd-wait-online.service
rm -rf "$root"/var/log/* "$root"/var/cache/apt/archives/*.deb
"""


@dataclass(frozen=True)
class Image:
    """What a machine is started from; `folder` also holds the administrator's key and the host's."""

    folder: Path

    @property
    def disk(self) -> Path:
        """The disk that machines write their changes beside, never into."""
        return self.folder / "disk.img"

    @property
    def kernel(self) -> Path:
        """The kernel, outside the disk: nothing here needs a boot loader."""
        return self.folder / "vmlinuz"

    @property
    def initrd(self) -> Path:
        """Its first root file system."""
        return self.folder / "initrd.img"

    @property
    def admin_key(self) -> Path:
        """Private key of the administrator."""
        return self.folder / "admin_ed25519"

    @property
    def host_key(self) -> str:
        """Public key of the machines, as known_hosts wants it."""
        return " ".join((self.folder / "host_ed25519.pub").read_text().split()[:2])


def packages() -> list[str]:
    """What is installed: the packages of a lab's host but for a few, and a kernel."""
    catalog = yaml.safe_load((ROOT / "images" / "catalog.yml").read_text())
    node = next(recipe for recipe in catalog["recipes"] if recipe["name"] == "lab-node")
    return sorted({*node["rootfs"]["packages"], *_EXTRA} - _NOT_HERE)


def make(store: Path) -> Image:
    """The image, built if it is not there: a minute, 1 GiB. An interrupted build leaves nothing."""
    text = "\n".join([Path(__file__).read_text(), *packages()])
    image = Image(store / hashlib.sha256(text.encode()).hexdigest()[:12])
    store.mkdir(parents=True, exist_ok=True)
    with _lock(store / "lock"):
        if not image.folder.is_dir():
            for old in store.iterdir():
                if old.is_dir():
                    _remove(old)
            work = Path(tempfile.mkdtemp(prefix="making-", dir=store))
            try:
                _build(Image(work))
                work.rename(image.folder)
            except BaseException:
                _remove(work)
                raise
    return image


def _build(image: Image) -> None:
    for name in ("admin", "host"):
        _run(
            "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", image.folder / f"{name}_ed25519"
        )
    hook = image.folder / "customize"
    hook.write_text(_CUSTOMIZE)
    root = image.folder / "root"
    _run(
        "mmdebstrap", "--variant=minbase", "--mode=root", "--format=directory",
        '--aptopt=Acquire::Languages "none"', '--aptopt=APT::Install-Recommends "false"',
        "--dpkgopt=path-exclude=/usr/share/doc/*", "--dpkgopt=path-exclude=/usr/share/man/*",
        "--dpkgopt=path-exclude=/usr/share/locale/*",
        # Before the kernel's package makes its first root file system: only what this machine starts from.
        "--essential-hook=mkdir -p \"$1\"/etc/initramfs-tools/conf.d"
        " && echo MODULES=list > \"$1\"/etc/initramfs-tools/conf.d/labcluster"
        " && printf 'virtio_pci\\nvirtio_blk\\next4\\n' > \"$1\"/etc/initramfs-tools/modules",
        f"--include={','.join(packages())}",
        f'--customize-hook=sh {hook} "$1" {image.folder}',
        SUITE, root, *machine.debian_sources(SUITE),
        log=image.folder / "mmdebstrap.log",
    )  # fmt: skip
    for name in ("vmlinuz", "initrd.img"):
        shutil.copyfile(root / str((root / name).readlink()).lstrip("/"), image.folder / name)
    with image.disk.open("wb") as disk:
        disk.truncate(DISK_MIB * 1024 * 1024)
    _run("mke2fs", "-q", "-t", "ext4", "-L", "root", "-d", root, image.disk)
    shutil.rmtree(root)


def _remove(folder: Path) -> None:
    # mmdebstrap mounts into the folder while it works, and an interrupted one may leave that.
    for line in reversed(Path("/proc/self/mounts").read_text().splitlines()):
        if (place := line.split()[1]).startswith(f"{folder}/"):
            subprocess.run(["umount", "--lazy", place], check=False)
    shutil.rmtree(folder, ignore_errors=True)


def _run(*command: object, log: Path | None = None) -> None:
    words = [str(word) for word in command]
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if log:
        log.write_text(done.stdout)
    if done.returncode:
        raise RuntimeError(f"{words[0]} failed with exit code {done.returncode}:\n{done.stdout[-3000:]}")


@contextmanager
def _lock(file: Path) -> Iterator[None]:
    with file.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    print(make(ROOT / "build" / "vms" / "image").folder)
