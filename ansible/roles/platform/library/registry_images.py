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
    description: Certificate authority of the registry and its token service.
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
  token_url:
    description: Address of the registry's token service.
    type: str
    required: true
  service:
    description: Name of the registry in its tokens.
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
    token_url: https://10.0.0.11:5001/token
    service: registry.lab.internal:5000
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
    """The HTTP API of one registry, over one kept connection, with docker's token authentication."""

    def __init__(self, address, ca_file, username, password, token_url, service, patience):
        self.address = address
        self.patience = patience
        try:
            context = ssl.create_default_context(cafile=ca_file)
        except OSError as error:
            raise PushError(f"no usable certificate authority at {ca_file}: {error}") from error
        self.connection = http.client.HTTPSConnection(address, context=context, timeout=TIMEOUT_SECONDS)
        self.login = base64.b64encode(f"{username}:{password}".encode()).decode()
        self.token_url = urllib.parse.urlsplit(token_url)
        self.service = service
        self.tokens = http.client.HTTPSConnection(
            self.token_url.netloc, context=context, timeout=TIMEOUT_SECONDS
        )
        # repository -> (its token, until when)
        self.bearers = {}
        # repository -> others that its token lets layers be taken over from
        self.sources = {}
        # Where a layer lies already: from there the registry takes it over without a transfer.
        self.known = {}

    def bearer(self, repository):
        """A token for one repository, and for those that its layers may be taken from."""
        token, until = self.bearers.get(repository, ("", 0))
        if time.monotonic() >= until:
            # The service takes twenty scopes at once; what a layer is not taken from is sent.
            self.sources[repository] = sorted(set(self.known.values()) - {repository})[:15]
            scopes = [f"repository:{repository}:pull,push"]
            scopes += [f"repository:{name}:pull" for name in self.sources[repository]]
            query = [("service", self.service), *[("scope", scope) for scope in scopes]]
            path = f"{self.token_url.path}?{urllib.parse.urlencode(query)}"
            headers = {"Authorization": f"Basic {self.login}"}
            answer, text = self.send(self.tokens, "GET", path, None, headers)
            if answer.status == 401:
                raise PushError(f"registry {self.address} refuses the credential")
            if answer.status != 200:
                raise PushError(f"{self.token_url.geturl()} answered {answer.status} {shorten(text)}")
            content = json.loads(text)
            token = content["token"]
            until = time.monotonic() + content["expires_in"] / 2
            self.bearers[repository] = (token, until)
        return token

    def send(self, connection, method, path, body, headers):
        """(answer, its body); sent again while there is no answer and patience is left."""
        end = time.monotonic() + self.patience
        while True:
            try:
                connection.request(method, path, body=body, headers=headers)
                answer = connection.getresponse()
                return answer, answer.read()
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                # Half a body cannot be sent again; the caller starts anew with a fresh run.
                if isinstance(error, ssl.SSLError) or hasattr(body, "read") or time.monotonic() > end:
                    raise PushError(f"registry {self.address} does not answer: {error}") from error
                time.sleep(1)

    def call(self, repository, method, path, allowed, body=None, headers=None):
        """(status, headers) of an answer whose status is allowed."""
        headers = {"Authorization": f"Bearer {self.bearer(repository)}", **(headers or {})}
        answer, text = self.send(self.connection, method, path, body, headers)
        if answer.status == 401:
            raise PushError(f"registry {self.address} refuses the token of {self.token_url.geturl()}")
        if answer.status not in allowed:
            said = f"{method} {path} answered {answer.status} {shorten(text)}"
            raise PushError(f"registry {self.address}: {said}")
        return answer.status, answer.headers

    def has(self, repository, tag, digest):
        """Whether the tag is there and means that digest."""
        path = f"/v2/{repository}/manifests/{tag}"
        status, headers = self.call(repository, "HEAD", path, (200, 404), headers={"Accept": MANIFEST_TYPE})
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
        _, answer = self.call(repository, "PUT", path, (201,), body=manifest, headers=headers)
        got = answer.get("Docker-Content-Digest", digest)
        if got != digest:
            raise PushError(f"{repository}:{tag} became {got} in the registry, not {digest}")

    def push_blob(self, repository, blob, archive, file):
        digest = blob["digest"]
        status, _ = self.call(repository, "HEAD", f"/v2/{repository}/blobs/{digest}", (200, 404))
        if status == 404:
            start = f"/v2/{repository}/blobs/uploads/"
            if self.known.get(digest) in self.sources[repository]:
                query = urllib.parse.urlencode({"mount": digest, "from": self.known[digest]})
                start = f"{start}?{query}"
            status, headers = self.call(repository, "POST", start, (201, 202))
            if status == 202:
                target = urllib.parse.urlsplit(headers["Location"])
                query = f"{target.query}&" if target.query else ""
                path = f"{target.path}?{query}{urllib.parse.urlencode({'digest': digest})}"
                headers = {"Content-Type": "application/octet-stream", "Content-Length": str(blob["size"])}
                layer = open_blob(archive, file, digest)
                self.call(repository, "PUT", path, (201,), body=layer, headers=headers)
        self.known[digest] = repository


def shorten(text):
    return text.decode(errors="replace").strip()[:300]


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
            "token_url": {"type": "str", "required": True},
            "service": {"type": "str", "required": True},
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
            given["address"],
            given["ca_file"],
            given["username"],
            given["password"],
            given["token_url"],
            given["service"],
            patience,
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
