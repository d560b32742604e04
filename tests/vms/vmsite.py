"""Two machines made a site: inventory, a directory on this machine, and labcluster's own playbooks."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import yaml
from image import ADMIN, ROOT, Image
from machines import Machine, MachineError, clear, free_port, write_ssh_config

HERE = Path(__file__).resolve().parent
BASE_DN = "dc=vms,dc=internal"
#: What the file server's second disk is, as an administrator would make it before the first site.yml.
TREE = """
set -e
mkfs.ext4 -q -O quota,project -L lab /dev/vdb
mkdir -p /lab
echo 'LABEL=lab /lab ext4 defaults,noatime,prjquota 0 2' >> /etc/fstab
systemctl daemon-reload
mount /lab
"""
# The packages are in the image: no machine asks a mirror, which an emulated one does slowly.
PREPARE = """
set -e
install -D /dev/null /var/lib/apt/periodic/update-success-stamp
touch --date='+1 day' /var/lib/apt/periodic/update-success-stamp /var/lib/apt/lists
"""


class StandIn:
    """The portal, as far as the file server knows it: takes reports and answers with limits."""

    def __init__(self) -> None:
        self.limits: dict[str, int] = {}
        self.reports: list[dict[str, Any]] = []
        self.tokens: set[str] = set()
        self._server: HTTPServer | None = None

    def start(self, certificate: Path, key: Path, port: int) -> None:
        """Listen on loopback, which the machines see as their gateway."""
        stand_in = self

        class Handler(BaseHTTPRequestHandler):
            def do_PUT(self) -> None:
                stand_in.tokens.add(self.headers["Authorization"])
                stand_in.reports.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(200)
                self.end_headers()
                self.wfile.write(json.dumps({"projects": stand_in.limits}).encode())

            def log_message(self, *_: Any) -> None:
                """Nothing: the tests say what matters."""

        self._server = HTTPServer(("127.0.0.1", port), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        """Listen no more."""
        if self._server:
            self._server.shutdown()
            self._server.server_close()


class VmSite:
    """`files` serves the tree, `node` mounts it; slapd on this machine knows who is who."""

    def __init__(self, image: Image, folder: Path) -> None:
        clear(folder)
        self.folder = folder
        self.inventory = folder / "site"
        one, two = free_port(socket.SOCK_DGRAM), free_port(socket.SOCK_DGRAM)
        self.files = Machine("files", image, folder, "10.78.0.12", (one, two), extra_mib=1024)
        self.node = Machine("node", image, folder, "10.78.0.21", (two, one))
        self.machines = (self.files, self.node)
        self.ldap_port = free_port()
        self.portal_port = free_port()
        self._slapd: subprocess.Popen[bytes] | None = None
        self._password = secrets.token_hex(24)
        self.portal = StandIn()
        ssh_config = write_ssh_config(folder, self.machines)
        self._write_inventory(image, ssh_config)

    def up(self, people: dict[str, int], projects: dict[str, tuple[int, Sequence[str]]]) -> None:
        """Boot, prepare as an administrator does, and run labcluster's plays. Minutes."""
        for machine in self.machines:
            machine.start()
        for machine in self.machines:
            machine.wait()
            machine.check(PREPARE)
        self.files.check(TREE)
        self.play("base.yml")
        self._start_slapd(people, projects)
        self._start_portal()
        self.play("storage.yml")

    def down(self) -> None:
        """Everything of it goes, whatever state it is in."""
        for machine in self.machines:
            machine.pull_the_plug()
        if self._slapd:
            self._slapd.kill()
            self._slapd.wait()
        self.portal.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def play(self, *playbooks: str) -> str:
        """Run plays of ansible/playbooks on the site; what they said."""
        command = [ROOT / ".venv" / "bin" / "ansible-playbook", "-i", self.inventory]
        file = self.folder / "ansible.log"
        with file.open("w") as log:
            done = subprocess.run(
                [str(word) for word in [*command, *(f"playbooks/{name}" for name in playbooks)]],
                cwd=ROOT / "ansible", stdout=log, stderr=subprocess.STDOUT, check=False,
                env={**os.environ, "ANSIBLE_FORCE_COLOR": "0", "ANSIBLE_TIMEOUT": "60"},
            )  # fmt: skip
        said = file.read_text()
        if done.returncode:
            raise MachineError(f"{playbooks} failed:\n{said[-6000:]}")
        return said

    def _write_inventory(self, image: Image, ssh_config: Path) -> None:
        shutil.copytree(HERE / "site", self.inventory)
        keys = self.inventory / "secrets"
        keys.mkdir()
        shutil.copyfile(image.admin_key, keys / "admin_ed25519")
        (keys / "admin_ed25519").chmod(0o600)
        shutil.copyfile(self.folder / "known_hosts", keys / "known_hosts")
        values = {
            "cluster_admins": [
                {
                    "name": ADMIN,
                    "uid": 10000,
                    "ssh_keys": [image.admin_key.with_suffix(".pub").read_text().strip()],
                }
            ],
            "cluster_secrets": {"ldap_sssd_password": self._password, "portal_session_key": self._password},
            # The way to the machines; everything else is as on any site.
            "ansible_ssh_extra_args": f"-F {ssh_config}",
            "file_server_portal_url": f"https://portal.vms.internal:{self.portal_port}",
            "directory_client_uri": f"ldaps://ldap.vms.internal:{self.ldap_port}",
            "file_server_ldap_uri": f"ldaps://ldap.vms.internal:{self.ldap_port}",
        }
        (self.inventory / "group_vars" / "all" / "secrets.yml").write_text(yaml.safe_dump(values))

    def _start_portal(self) -> None:
        home = self.folder / "portal"
        home.mkdir()
        for name in ("portal.crt", "portal.key"):
            (home / name).write_text(self.node.check(f"cat /etc/labcluster/pki/{name}"))
        self.portal.start(home / "portal.crt", home / "portal.key", self.portal_port)

    def _start_slapd(self, people: dict[str, int], projects: dict[str, tuple[int, Sequence[str]]]) -> None:
        """A directory of what sssd and the tree agent read, under the site's certificate for it."""
        home = self.folder / "slapd"
        (home / "data").mkdir(parents=True)
        for name in ("ldap.crt", "ldap.key", "ca.crt"):
            (home / name).write_text(self.node.check(f"cat /etc/labcluster/pki/{name}"))
        (home / "slapd.conf").write_text(
            "include /etc/ldap/schema/core.schema\ninclude /etc/ldap/schema/cosine.schema\n"
            "include /etc/ldap/schema/nis.schema\nmodulepath /usr/lib/ldap\nmoduleload back_mdb\n"
            f"TLSCACertificateFile {home}/ca.crt\nTLSCertificateFile {home}/ldap.crt\n"
            f"TLSCertificateKeyFile {home}/ldap.key\ndatabase mdb\nmaxsize 104857600\nsuffix {BASE_DN}\n"
            f"rootdn cn=sssd,ou=services,{BASE_DN}\nrootpw {self._password}\ndirectory {home}/data\n"
        )
        base = (ROOT / "images" / "openldap" / "base.ldif").read_text()
        entries = [base.replace("@BASE@", BASE_DN).replace("@DC@", "vms")]
        entries += [
            f"dn: uid={name},ou=people,{BASE_DN}\nobjectClass: account\nobjectClass: posixAccount\n"
            f"uid: {name}\ncn: {name}\nuidNumber: {uid}\ngidNumber: {uid}\n"
            f"homeDirectory: /lab/home/{name}\nloginShell: /bin/bash"
            for name, uid in people.items()
        ]
        for name, (gid, members) in projects.items():
            group = (
                f"dn: cn={name},ou=projects,{BASE_DN}\nobjectClass: posixGroup\ncn: {name}\ngidNumber: {gid}"
            )
            entries.append("\n".join([group, *(f"memberUid: {member}" for member in members)]))
        (home / "entries.ldif").write_text("\n\n".join(entries) + "\n")
        files = ["-f", home / "slapd.conf"]
        subprocess.run(
            ["/usr/sbin/slapadd", *map(str, files), "-l", str(home / "entries.ldif")],
            check=True,
            capture_output=True,
        )
        with (home / "log").open("wb") as log:
            self._slapd = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "/usr/sbin/slapd", "-d", "none", *map(str, files),
                 "-h", f"ldaps://127.0.0.1:{self.ldap_port}/"], stdout=log, stderr=log,
            )  # fmt: skip
        time.sleep(1)
        if self._slapd.poll() is not None:
            raise MachineError(f"slapd did not start: {(home / 'log').read_text()}")
