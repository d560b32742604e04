"""The Kubernetes API: JSON in, JSON out, over one pooled and kept-alive official client.

Typed models of the official client cost tens of milliseconds an object and hide fields that are newer
than the client, so that only its configuration, authentication and connection pool are used here.
"""

from __future__ import annotations

import json
import os
import re
import ssl
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast

import urllib3
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException

from labcluster.errors import (
    ConflictError,
    LabclusterError,
    NotAllowedError,
    NotFoundError,
    UnreachableError,
    UsageError,
)

Json = dict[str, Any]

APPLY = "application/apply-patch+yaml"
MERGE = "application/merge-patch+json"

#: The group in which the portal makes runs in a user's name. No token can claim it, so that the admission
#: policies know by it what was really made by the portal: names and labels of runs.
PORTAL_GROUP = "labcluster:portal"

# Kubernetes says a refusal of an admission policy with the names of policy and binding around the
# sentence that its author wrote; users need only the sentence.
_POLICY = re.compile(
    r"ValidatingAdmissionPolicy '[^']*' with binding '[^']*' denied request: (?P<why>.*)", re.DOTALL
)


class Stream(Protocol):
    """A response body that is still arriving."""

    status: int

    def stream(self, amt: int, decode_content: bool | None = None) -> Iterator[bytes]: ...
    def shutdown(self) -> None: ...
    def release_conn(self) -> None: ...
    def close(self) -> None: ...


class SocketTarget(NamedTuple):
    """What a WebSocket to the apiserver is opened with."""

    url: str
    headers: dict[str, str]
    tls: ssl.SSLContext | None


class KubeApi:
    """Requests to the apiserver as ourselves or, with `user`, as a user whom we may impersonate."""

    def __init__(self, configuration: client.Configuration) -> None:
        # Retries are decided by who calls: a repeated POST is not always harmless.
        configuration.retries = urllib3.Retry(total=None, connect=1, read=0, redirect=0, status=0, other=0)
        configuration.connection_pool_maxsize = 64
        self._client = client.ApiClient(configuration)

    @classmethod
    def load(cls, kubeconfig: Path | None = None) -> KubeApi:
        """Inside a pod its service account, else the given kubeconfig (or `KUBECONFIG`)."""
        configuration = client.Configuration()
        if kubeconfig is None and "KUBERNETES_SERVICE_HOST" in os.environ:
            config.load_incluster_config(client_configuration=configuration)
        else:
            path = str(kubeconfig) if kubeconfig else None
            config.load_kube_config(config_file=path, client_configuration=configuration)
        return cls(configuration)

    def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        body: Any = None,
        content_type: str = "application/json",
        user: str | None = None,
        group: str | None = None,
        timeout: float = 10.0,
    ) -> Json:
        """The decoded answer; a failure is raised as an error of `labcluster.errors`."""
        response = self._send(method, path, query, body, content_type, user, (3.05, timeout), group)
        try:
            data = response.read()
        except urllib3.exceptions.HTTPError as error:
            raise UnreachableError(f"the Kubernetes API broke off its answer: {error}") from error
        finally:
            response.release_conn()
        return cast(Json, json.loads(data)) if data else {}

    def open(
        self,
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        user: str | None = None,
        idle_timeout: float | None,
    ) -> Stream:
        """A GET whose body is read while it arrives; the caller closes it."""
        timeout = (3.05, idle_timeout)
        return cast(Stream, self._send("GET", path, query, None, "application/json", user, timeout))

    def socket(self, path: str, *, user: str, group: str) -> SocketTarget:
        """How to open a path as a WebSocket in the name of a user, with one group beside his name."""
        configuration = self._client.configuration
        tls = None
        if configuration.host.startswith("https://"):
            tls = ssl.create_default_context(cafile=configuration.ssl_ca_cert)
            if configuration.cert_file:
                tls.load_cert_chain(configuration.cert_file, configuration.key_file)
        headers = {"Impersonate-User": user, "Impersonate-Group": group}
        for setting in configuration.auth_settings().values():
            headers[setting["key"]] = setting["value"]
        return SocketTarget(re.sub("^http", "ws", configuration.host) + path, headers, tls)

    def get(self, path: str, *, user: str | None = None) -> Json:
        """One object."""
        return self.request("GET", path, user=user)

    def list(
        self, path: str, *, query: Mapping[str, Any] | None = None, user: str | None = None
    ) -> list[Json]:
        """All items of a collection, read page by page."""
        items: list[Json] = []
        params = {"limit": 500, **(query or {})}
        while True:
            answer = self.request("GET", path, query=params, user=user, timeout=30.0)
            items += answer.get("items") or []
            token = answer.get("metadata", {}).get("continue")
            if not token:
                return items
            params["continue"] = token

    def create(
        self,
        path: str,
        body: Json,
        *,
        user: str | None = None,
        group: str | None = None,
        dry_run: bool = False,
    ) -> Json:
        """POST to a collection; a dry run passes admission and keeps nothing."""
        query = {"dryRun": "All"} if dry_run else None
        return self.request("POST", path, query=query, body=body, user=user, group=group)

    def apply(
        self, path: str, body: Json, *, manager: str, force: bool = True, user: str | None = None
    ) -> Json:
        """Server-side apply."""
        query = {"fieldManager": manager, "force": "true" if force else "false"}
        return self.request("PATCH", path, query=query, body=body, content_type=APPLY, user=user)

    def delete(
        self,
        path: str,
        *,
        propagation: str = "Background",
        grace_seconds: int | None = None,
        user: str | None = None,
    ) -> Json:
        """DELETE one object."""
        options: Json = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": propagation}
        if grace_seconds is not None:
            options["gracePeriodSeconds"] = grace_seconds
        return self.request("DELETE", path, body=options, user=user)

    def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, Any] | None,
        body: Any,
        content_type: str,
        user: str | None,
        timeout: tuple[float, float | None],
        group: str | None = None,
    ) -> urllib3.HTTPResponse:
        headers = {"Accept": "application/json", "Content-Type": content_type}
        if user is not None:
            headers["Impersonate-User"] = user
        if group is not None:
            headers["Impersonate-Group"] = group
        try:
            return cast(
                urllib3.HTTPResponse,
                self._client.call_api(
                    path,
                    method,
                    query_params=list((query or {}).items()),
                    header_params=headers,
                    body=body,
                    auth_settings=["BearerToken"],
                    _preload_content=False,
                    _request_timeout=timeout,
                ),
            )
        except AttributeError as error:
            # The client decodes the body of a failed request even where there is none.
            raise UnreachableError("the Kubernetes API gave an answer that cannot be read") from error
        except ApiException as error:
            raise failure(error) from error
        except urllib3.exceptions.HTTPError as error:
            raise UnreachableError(f"the Kubernetes API does not answer: {_short(error)}") from error


def failure(error: ApiException) -> LabclusterError:
    """What the apiserver's refusal means in our own tree."""
    return failure_of(error.status, error.reason, error.body)


def failure_of(code: int | None, phrase: str | None, body: str | bytes | None) -> LabclusterError:
    """The same, of the parts of an HTTP answer."""
    text = body.decode("utf-8", "replace") if isinstance(body, bytes) else body
    message = str(text or phrase or "no reason given")
    reason = ""
    try:
        status = json.loads(message)
        message = str(status.get("message", message))
        reason = str(status.get("reason", ""))
    except (ValueError, AttributeError):
        pass
    if sentence(message) != message:
        return NotAllowedError(sentence(message))
    if code == 404:
        return NotFoundError(message)
    if code == 409:
        return ConflictError(message)
    if code in (401, 403):
        return NotAllowedError(message)
    if code in (400, 422) and reason != "Expired":
        return UsageError(message)
    if code == 410:
        return GoneError(message)
    return UnreachableError(f"the Kubernetes API cannot do this now ({code}): {message}")


def sentence(message: str) -> str:
    """What the author of an admission policy wrote, or else the message as it is."""
    policy = _POLICY.search(message)
    return policy["why"].strip() if policy else message


def _short(error: BaseException) -> str:
    """The innermost cause of an urllib3 error, without object addresses."""
    reason = getattr(error, "reason", None)
    text = str(reason if reason is not None else error)
    return (
        re.sub(r"<[^>]*>:? ?|HTTPS?Connection(Pool)?\([^)]*\):? ?", "", text).strip() or type(error).__name__
    )


class GoneError(LabclusterError):
    """The resource version of a watch is too old: list again."""


class KubeJobs:
    """Jobs, made and removed under the name of the user whose run they are."""

    def __init__(self, api: KubeApi) -> None:
        self._api = api

    def create(self, job: Mapping[str, Any], user: str, *, dry_run: bool = False) -> str:
        """Make the Job; the same Job made before counts as made. The answer is its uid."""
        metadata = job["metadata"]
        path = _jobs(metadata["namespace"])
        try:
            made = self._api.create(path, dict(job), user=user, group=PORTAL_GROUP, dry_run=dry_run)
        except ConflictError:
            made = self._api.get(f"{path}/{metadata['name']}", user=user)
            if made["metadata"].get("annotations") != metadata["annotations"]:
                raise NotAllowedError(
                    f"a Job {metadata['name']} of another run is in the way: remove it first"
                ) from None
        return str(made["metadata"]["uid"])

    def delete(self, namespace: str, name: str, user: str | None) -> None:
        """Remove the Job, which goes when its pods are gone; an absent Job counts as removed."""
        try:
            self._api.delete(f"{_jobs(namespace)}/{name}", propagation="Foreground", user=user)
        except NotFoundError:
            return

    def release_pod(self, namespace: str, name: str) -> None:
        """Take a pod that is being removed off the cluster's books without an answer from its node."""
        try:
            self._api.delete(f"/api/v1/namespaces/{namespace}/pods/{name}", grace_seconds=0)
        except NotFoundError:
            return

    def allow(self, policy: Mapping[str, Any]) -> None:
        """Make a NetworkPolicy, as ourselves; one that exists stays as it is."""
        namespace = policy["metadata"]["namespace"]
        try:
            self._api.create(
                f"/apis/networking.k8s.io/v1/namespaces/{namespace}/networkpolicies", dict(policy)
            )
        except ConflictError:
            return

    def exists(self, namespace: str, name: str) -> bool:
        """Ask the apiserver, past every cache."""
        try:
            self._api.get(f"{_jobs(namespace)}/{name}")
        except NotFoundError:
            return False
        return True

    def trouble(self, namespace: str, name: str) -> str | None:
        """The newest complaint among the Job's events."""
        selector = f"involvedObject.kind=Job,involvedObject.name={name},type=Warning"
        events = self._api.list(f"/api/v1/namespaces/{namespace}/events", query={"fieldSelector": selector})
        newest = max(events, key=lambda e: e.get("lastTimestamp") or e.get("eventTime") or "", default=None)
        return sentence(str(newest.get("message", ""))) if newest else None


class KubeLogs:
    """Logs of pods, read under the name of the user who asks."""

    def __init__(self, api: KubeApi, container: str) -> None:
        self._api = api
        self._container = container

    def open(self, namespace: str, pod: str, *, user: str, follow: bool, since: str | None = None) -> KubeLog:
        """The container's log, each line with its time before it."""
        query = {"container": self._container, "timestamps": "true", "follow": "true" if follow else "false"}
        if since:
            query["sinceTime"] = since
        path = f"/api/v1/namespaces/{namespace}/pods/{pod}/log"
        return KubeLog(self._api.open(path, query=query, user=user, idle_timeout=None if follow else 30.0))


class KubeLog:
    """Log lines as they arrive."""

    def __init__(self, response: Stream) -> None:
        self._response = response

    def __iter__(self) -> Iterator[bytes]:
        rest = b""
        try:
            for chunk in self._response.stream(1 << 16, decode_content=False):
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    yield line + b"\n"
        except urllib3.exceptions.HTTPError as error:
            raise UnreachableError(f"the log broke off: {_short(error)}") from error
        if rest:
            yield rest

    def close(self) -> None:
        """Stop; also wakes a thread that waits for the next line."""
        hang_up(self._response)


def hang_up(response: Stream) -> None:
    """End a response that another thread may be reading."""
    try:
        response.shutdown()
    except (OSError, ValueError, RuntimeError):
        response.close()


def _jobs(namespace: str) -> str:
    return f"/apis/batch/v1/namespaces/{namespace}/jobs"
