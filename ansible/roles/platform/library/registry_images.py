#!/usr/bin/python
"""Ansible module: put images of the artifact store into a registry that lacks them."""

from __future__ import annotations

DOCUMENTATION = r"""
module: registry_images
short_description: Put images of the artifact store into a registry that lacks them
description:
  - Sends images from OCI archives to a registry over its HTTP API, byte for byte, so that an image keeps the
    digest it has in the store's manifest. Only what the registry lacks is sent; layers that it has are not
    sent again.
options:
  address:
    description: Host and port of the registry.
    type: str
    required: true
  ca_file:
    description: Certificate authority of the registry.
    type: path
    required: true
  username:
    description: Who may push.
    type: str
    required: true
  password:
    description: The password of O(username).
    type: str
    required: true
  images:
    description: What the registry should have.
    type: list
    elements: dict
    required: true
    suboptions:
      reference:
        description: Repository and tag, without the registry.
        type: str
        required: true
      digest:
        description: Digest of the image's manifest.
        type: str
        required: true
      file:
        description: OCI archive that has it.
        type: path
        required: true
author:
  - labcluster
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
"""

EXAMPLES = r"""
- name: Push the portal
  registry_images:
    address: 10.0.0.11:5000
    ca_file: secrets/ca.crt
    username: cluster
    password: "{{ password }}"
    images:
      - reference: labcluster/portal:0.1.0
        digest: sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
        file: build/store/images/portal.tar
"""

RETURN = r"""
pushed:
  description: References of the images that were sent (or would be, in check mode).
  returned: always
  type: list
  elements: str
"""

import base64  # noqa: E402
import hashlib  # noqa: E402
import http.client  # noqa: E402
import json  # noqa: E402
import ssl  # noqa: E402
import tarfile  # noqa: E402
import time  # noqa: E402
import urllib.parse  # noqa: E402

from ansible.module_utils.basic import AnsibleModule  # noqa: E402

MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
# A registry whose pod was just exchanged does not listen for a moment.
PATIENCE_SECONDS = 30
# Asking only, nobody waits for a registry that is not there yet.
PATIENCE_OF_CHECK_SECONDS = 2
TIMEOUT_SECONDS = 120
DAMAGED = "the store is damaged, `make artifacts` repairs it"


class PushError(Exception):
    """The registry or an archive is not as it has to be; one sentence."""


class Registry:
    """The HTTP API of one registry, over one kept connection."""

    def __init__(self, address, ca_file, username, password, patience):
        self.address = address
        self.patience = patience
        try:
            context = ssl.create_default_context(cafile=ca_file)
        except OSError as error:
            raise PushError(f"no usable certificate authority at {ca_file}: {error}") from error
        self.connection = http.client.HTTPSConnection(address, context=context, timeout=TIMEOUT_SECONDS)
        token = base64.b64encode(f"{username}:{password}".encode()).decode()
        self.headers = {"Authorization": f"Basic {token}"}
        # Where a layer lies already: from there the registry takes it over without a transfer.
        self.known = {}

    def call(self, method, path, allowed, body=None, headers=None):
        """(status, headers) of an answer whose status is allowed."""
        end = time.monotonic() + self.patience
        while True:
            try:
                self.connection.request(method, path, body=body, headers={**self.headers, **(headers or {})})
                answer = self.connection.getresponse()
                text = answer.read()
                break
            except (OSError, http.client.HTTPException) as error:
                self.connection.close()
                # Half a body cannot be sent again; the caller starts anew with a fresh run.
                if isinstance(error, ssl.SSLError) or hasattr(body, "read") or time.monotonic() > end:
                    raise PushError(f"registry {self.address} does not answer: {error}") from error
                time.sleep(1)
        if answer.status == 401:
            raise PushError(f"registry {self.address} refuses the credential")
        if answer.status not in allowed:
            said = text.decode(errors="replace").strip()[:300]
            raise PushError(f"registry {self.address}: {method} {path} answered {answer.status} {said}")
        return answer.status, answer.headers

    def has(self, repository, tag, digest):
        """Whether the tag is there and means that digest."""
        path = f"/v2/{repository}/manifests/{tag}"
        status, headers = self.call("HEAD", path, (200, 404), headers={"Accept": MANIFEST_TYPE})
        return status == 200 and headers.get("Docker-Content-Digest") == digest

    def push(self, repository, tag, digest, file):
        """Send what the registry lacks of one image."""
        with tarfile.open(file) as archive:
            manifest = read_blob(archive, file, digest)
            content = json.loads(manifest)
            for blob in [content["config"], *content["layers"]]:
                self.push_blob(repository, blob, archive, file)
        headers = {"Content-Type": content.get("mediaType", MANIFEST_TYPE)}
        path = f"/v2/{repository}/manifests/{tag}"
        _, answer = self.call("PUT", path, (201,), body=manifest, headers=headers)
        got = answer.get("Docker-Content-Digest", digest)
        if got != digest:
            raise PushError(f"{repository}:{tag} became {got} in the registry, not {digest}")

    def push_blob(self, repository, blob, archive, file):
        digest = blob["digest"]
        status, _ = self.call("HEAD", f"/v2/{repository}/blobs/{digest}", (200, 404))
        if status == 404:
            start = f"/v2/{repository}/blobs/uploads/"
            if digest in self.known:
                query = urllib.parse.urlencode({"mount": digest, "from": self.known[digest]})
                start = f"{start}?{query}"
            status, headers = self.call("POST", start, (201, 202))
            if status == 202:
                target = urllib.parse.urlsplit(headers["Location"])
                query = f"{target.query}&" if target.query else ""
                path = f"{target.path}?{query}{urllib.parse.urlencode({'digest': digest})}"
                headers = {"Content-Type": "application/octet-stream", "Content-Length": str(blob["size"])}
                self.call("PUT", path, (201,), body=open_blob(archive, file, digest), headers=headers)
        self.known[digest] = repository


def open_blob(archive, file, digest):
    try:
        return archive.extractfile(f"blobs/{digest.replace(':', '/')}")
    except KeyError as error:
        raise PushError(f"{file} lacks {digest}; {DAMAGED}") from error


def read_blob(archive, file, digest):
    data = open_blob(archive, file, digest).read()
    if f"sha256:{hashlib.sha256(data).hexdigest()}" != digest:
        raise PushError(f"{file}: the content of {digest} is another; {DAMAGED}")
    return data


def main():
    module = AnsibleModule(
        argument_spec={
            "address": {"type": "str", "required": True},
            "ca_file": {"type": "path", "required": True},
            "username": {"type": "str", "required": True},
            "password": {"type": "str", "required": True, "no_log": True},
            "images": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "reference": {"type": "str", "required": True},
                    "digest": {"type": "str", "required": True},
                    "file": {"type": "path", "required": True},
                },
            },
        },
        supports_check_mode=True,
    )
    given = module.params
    pushed = []
    try:
        patience = PATIENCE_OF_CHECK_SECONDS if module.check_mode else PATIENCE_SECONDS
        registry = Registry(
            given["address"], given["ca_file"], given["username"], given["password"], patience
        )
        for image in given["images"]:
            repository, _, tag = image["reference"].rpartition(":")
            if registry.has(repository, tag, image["digest"]):
                continue
            if not module.check_mode:
                registry.push(repository, tag, image["digest"], image["file"])
            pushed.append(image["reference"])
    except (PushError, OSError, tarfile.TarError, ValueError) as error:
        module.fail_json(msg=str(error), pushed=pushed, changed=bool(pushed))
    module.exit_json(changed=bool(pushed), pushed=pushed)


if __name__ == "__main__":
    main()
