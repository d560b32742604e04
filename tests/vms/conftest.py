"""Two virtual machines with a shared tree between them: made once a session, gone after it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import image
import pytest
from image import ROOT
from vmsite import VmSite

#: ada is in more projects than an NFS request has room for; bo is in one of his own.
GROUPS = 20
PEOPLE = {"ada": 20000, "bo": 20001}
PROJECTS = {"vision": (30000, ["ada"]), "speech": (30001, ["bo"])} | {
    f"p{number}": (30010 + number, ["ada"]) for number in range(GROUPS)
}


@pytest.fixture(scope="session")
def vms() -> Iterator[VmSite]:
    """The site, up and with labcluster's roles applied: some ten minutes where machines are emulated."""
    if os.geteuid() != 0 or not all(map(shutil.which, ("qemu-system-x86_64", "qemu-img", "mmdebstrap"))):
        pytest.fail("needs root and what ./setup.sh --with-vms installs: run make e2e-nfs", pytrace=False)
    found = image.make(ROOT / "build" / "vms" / "image")
    site = VmSite(found, ROOT / "build" / "vms" / "run")
    try:
        site.up(PEOPLE, PROJECTS)
        yield site
    finally:
        site.down()
