"""What the build machine knows of mirrors, proxies and authorities: taken from its own configuration."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

_BUNDLES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt")
# Where the folder of this module's files is seen by the RUN steps of a Containerfile.
MOUNT = "/run/build-host"


def ca_bundle() -> Path | None:
    """The certificate authorities that this machine trusts, as one file."""
    for name in (os.environ.get("SSL_CERT_FILE", ""), *_BUNDLES):
        if name and Path(name).is_file():
            return Path(name)
    return None


def debian_sources(suite: str, folder: Path = Path("/etc/apt")) -> list[str]:
    """The machine's own apt sources for a Debian suite as one-line entries; none on another distribution."""
    lines: list[str] = []
    for file in [folder / "sources.list", *sorted((folder / "sources.list.d").glob("*"))]:
        if not file.is_file():
            continue
        text = file.read_text(errors="replace")
        entries = _stanzas(text) if file.suffix == ".sources" else _one_liners(text)
        lines += [
            f"deb {uri} {name} {' '.join(components)}"
            for uri, name, components in entries
            if name in (suite, f"{suite}-updates", f"{suite}-security") and "main" in components
        ]
    return list(dict.fromkeys(lines))


def _one_liners(text: str) -> Iterator[tuple[str, str, list[str]]]:
    for line in text.splitlines():
        words = re.sub(r"\[[^]]*\]", "", line.split("#")[0]).split()
        if len(words) >= 4 and words[0] == "deb":
            yield words[1], words[2], words[3:]


def _stanzas(text: str) -> Iterator[tuple[str, str, list[str]]]:
    for stanza in re.split(r"\n\s*\n", text):
        fields: dict[str, str] = {}
        for line in stanza.splitlines():
            name, colon, value = line.partition(":")
            if colon and not line.startswith(("#", " ")):
                fields[name.lower()] = value.strip()
        if "deb" not in fields.get("types", "").split() or fields.get("enabled", "yes") == "no":
            continue
        for uri in fields.get("uris", "").split():
            for suite in fields.get("suites", "").split():
                yield uri, suite, fields.get("components", "").split()


def write_settings(folder: Path) -> dict[str, str]:
    """Write apt's and pip's settings for the RUN steps; return the build arguments that name them."""
    folder.mkdir()
    bundle = ca_bundle()
    authorities = f"{MOUNT}/ca-certificates.crt" if bundle else None
    if bundle:
        (folder / "ca-certificates.crt").write_bytes(bundle.read_bytes())
    apt = [line for line in _output(["apt-config", "dump"]) if re.match(r"Acquire::https?::Proxy", line)]
    if authorities:
        apt.append(f'Acquire::https::CAInfo "{authorities}";')
    (folder / "apt.conf").write_text("".join(f"{line}\n" for line in apt))
    settings = {name: value for name, value in _pip_settings() if name in _PIP_KEPT}
    if authorities:
        settings["cert"] = authorities
    lines = "".join(f"{name} = {value}\n" for name, value in sorted(settings.items()))
    (folder / "pip.conf").write_text(f"[global]\n{lines}")
    return {"APT_CONFIG": f"{MOUNT}/apt.conf", "PIP_CONFIG_FILE": f"{MOUNT}/pip.conf"}


_PIP_KEPT = ("index-url", "extra-index-url", "trusted-host", "timeout", "proxy")


def _pip_settings() -> Iterator[tuple[str, str]]:
    """pip's own configuration of this machine, then uv's index, which outranks it."""
    for line in _output(["pip", "config", "list"]):
        name, _, value = line.partition("=")
        yield name.rsplit(".", 1)[-1], value.strip("'\"")
    index = os.environ.get("UV_DEFAULT_INDEX") or os.environ.get("UV_INDEX_URL")
    if index:
        yield "index-url", index


def _output(command: list[str]) -> list[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()
    except FileNotFoundError:
        return []
