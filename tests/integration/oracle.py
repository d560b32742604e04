"""What may run in project vision, said a second time and in other words than the policies.

It says what is allowed: every field that is not known to be harmless is a finding. It knows nothing of CEL,
of the charts, or of what was asked for, and looks at what the apiserver would keep.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from members import JOB_CONTROLLER, REGISTRY

Item = dict[str, Any]

PROJECT, GID, MOST_GPUS = "vision", 30000, 4
#: uid and all groups of the project's members.
MEMBERS = {"ada": (20000, [30000, 30002]), "eve": (20002, [30000, 30002])}
PLATFORM = ("system:serviceaccount:labcluster:hub", JOB_CONTROLLER, None)
TEMPLATES = {"Pod": (), "CronJob": ("spec", "jobTemplate", "spec", "template"), "PodTemplate": ("template",)}

# Of no consequence for others, whatever they say.
FREE_POD = {
    *("restartPolicy", "activeDeadlineSeconds", "dnsPolicy", "dnsConfig", "nodeSelector", "hostname"),
    *("subdomain", "hostAliases", "shareProcessNamespace", "topologySpreadConstraints", "readinessGates"),
    *("setHostnameAsFQDN", "priority", "preemptionPolicy"),
}
FREE_CONTAINER = {
    *("name", "command", "args", "workingDir", "imagePullPolicy", "terminationMessagePath"),
    *("terminationMessagePolicy", "stdin", "stdinOnce", "tty", "restartPolicy", "targetContainerName"),
}
# Must say this, if anything.
FIXED_POD: Item = {
    "hostNetwork": False,
    "hostPID": False,
    "hostIPC": False,
    "hostUsers": True,
    "schedulerName": "default-scheduler",
    "serviceAccountName": "default",
    "serviceAccount": "default",
    "automountServiceAccountToken": False,
    "enableServiceLinks": False,
    "os": {"name": "linux"},
    "imagePullSecrets": [],
    "resourceClaims": [],
}


def findings(item: Item, user: str | None) -> list[str]:
    """What is wrong with what `user` got accepted; empty where nothing is."""
    return list(_service(item, user) if item["kind"] == "Service" else _object(item, user))


def ephemeral_findings(pod: Item) -> list[str]:
    """The same of a pod that got ephemeral containers."""
    return list(_pod(pod, pod["metadata"]["labels"]["labcluster.internal/user"], pod["kind"]))


def _object(item: Item, user: str | None) -> Iterator[str]:
    template = item
    for step in TEMPLATES.get(item["kind"], ("spec", "template")):
        template = template[step]
    name = item["metadata"].get("labels", {}).get("labcluster.internal/user", "")
    if name not in MEMBERS:
        yield f"of {name!r}, who is no member"
        return
    if user not in PLATFORM and user != name:
        yield f"{user} acts for {name}"
    pod = template.get("metadata", {}).get("labels", {})
    if pod.get("labcluster.internal/user") != name:
        yield "the pod is labelled for somebody else"
    controller = user == JOB_CONTROLLER
    for metadata in [item["metadata"], template.get("metadata", {})]:
        yield from _metadata(metadata, item["kind"], controller, user in PLATFORM)
    if user not in PLATFORM and item["metadata"]["name"].startswith("run-"):
        yield "a run's name"
    if user not in PLATFORM and item["kind"] not in ("Job", "Pod"):
        yield f"a person made a {item['kind']}"
    yield from _pod(template, name, item["kind"])
    yield from _queue(item, template, controller)
    spec = item.get("spec", {})
    job = spec if item["kind"] == "Job" else spec.get("jobTemplate", {}).get("spec", {})
    count = job.get("parallelism", 1) if job else 1
    if item["kind"] in ("Deployment", "ReplicaSet", "StatefulSet", "ReplicationController"):
        count = spec["replicas"]
    if count * sum(_gpus(c) for c in _containers(template["spec"])) > MOST_GPUS:
        yield "more GPUs than the project may have"
    if item["kind"] in ("Job", "CronJob") and (job.get("manualSelector") or "managedBy" in job):
        yield "a Job that selects or is managed by itself"


def _queue(item: Item, template: Item, controller: bool) -> Iterator[str]:
    owners = item["metadata"].get("ownerReferences", [])
    if (
        item["kind"] == "Pod"
        and controller
        and any(o["kind"] == "Job" and o.get("controller") for o in owners)
    ):
        if template["spec"].get("schedulingGates"):
            yield "a gate of its own"
        return
    holder = template if item["kind"] not in ("Job", "CronJob") else item
    if item["kind"] == "CronJob":
        holder = item["spec"]["jobTemplate"]
    labels = holder["metadata"].get("labels", {})
    if labels.get("kueue.x-k8s.io/queue-name") != "default":
        yield "past the queue"
    if labels.get("kueue.x-k8s.io/priority-class", "labcluster-low") not in (
        "labcluster-interactive",
        "labcluster-normal",
        "labcluster-low",
    ):
        yield "a priority of its own"
    gates = [gate["name"] for gate in template["spec"].get("schedulingGates", [])]
    if gates != (["kueue.x-k8s.io/admission"] if item["kind"] == "Pod" else []):
        yield f"gates {gates}"
    if item["kind"] == "Job" and item["spec"].get("suspend") is not True:
        yield "a Job that begins by itself"


def _metadata(metadata: Item, kind: str, controller: bool, platform: bool) -> Iterator[str]:
    fine = {"labcluster.internal/user", "labcluster.internal/project"}
    fine |= {f"kueue.x-k8s.io/{name}" for name in ("queue-name", "priority-class", "max-exec-time-seconds")}
    if kind == "Pod":
        fine.add("kueue.x-k8s.io/managed")
    elif kind == "Job":
        # The apiserver's own; it checks them.
        fine |= {
            "batch.kubernetes.io/controller-uid",
            "batch.kubernetes.io/job-name",
            "controller-uid",
            "job-name",
        }
    for key in metadata.get("labels", {}):
        domain = key.rpartition("/")[0]
        ours = domain == "labcluster.internal"
        system = domain.endswith(("kubernetes.io", "k8s.io")) and domain != "app.kubernetes.io"
        # No controller looks for Services by these.
        system |= kind != "Service" and key in ("job-name", "controller-uid", "pod-template-hash")
        if key not in fine and ((system and not controller) or (ours and not platform)):
            yield f"label {key}"
    project = metadata.get("labels", {}).get("labcluster.internal/project", PROJECT)
    if project != PROJECT:
        yield f"label of project {project}"
    for key in metadata.get("annotations", {}):
        domain = key.rpartition("/")[0]
        known = ("app.kubernetes.io", "kubectl.kubernetes.io", "labcluster.internal", "prometheus.io")
        set_by_apiserver = key in ("kubernetes.io/limit-ranger", "deprecated.daemonset.template.generation")
        if controller and domain == "kueue.x-k8s.io":
            continue
        if not set_by_apiserver and domain not in known and (domain or "." in key):
            yield f"annotation {key}"
    if not controller and metadata.get("ownerReferences"):
        yield "owners of its own"
    if not controller and set(metadata.get("finalizers", [])) - {"kueue.x-k8s.io/managed"}:
        yield "finalizers of its own"


def _containers(spec: Item) -> list[Item]:
    return [c for kind in ("containers", "initContainers", "ephemeralContainers") for c in spec.get(kind, [])]


def _gpus(container: Item) -> int:
    text = str(container.get("resources", {}).get("limits", {}).get("nvidia.com/gpu", 0))
    return int(text.replace("k", "000"))


def _pod(template: Item, name: str, kind: str) -> Iterator[str]:
    uid, groups = MEMBERS[name]
    spec = template["spec"]
    security = spec.get("securityContext", {})
    for field, value in spec.items():
        if field in FREE_POD or field in ("containers", "initContainers", "ephemeralContainers"):
            continue
        if field in FIXED_POD:
            if value != FIXED_POD[field]:
                yield f"{field}: {value}"
        elif field == "securityContext":
            yield from _security(security, groups)
        elif field == "volumes":
            yield from (text for volume in value for text in _volume(volume))
        elif field == "terminationGracePeriodSeconds":
            if value > 3600:
                yield "never ends"
        elif field == "priorityClassName":
            if not value.startswith("labcluster-"):
                yield f"priority class {value}"
        elif field == "tolerations":
            yield from (f"tolerates {t}" for t in value if not _harmless(t))
        elif field == "affinity":
            if "namespaces" in str(value) or "namespaceSelector" in str(value):
                yield "affinity to others' pods"
        elif field != "schedulingGates":  # _queue looks at them
            yield f"unknown field {field}"
    claims = {v["name"] for v in spec.get("volumes", []) if "persistentVolumeClaim" in v}
    for container in _containers(spec):
        ephemeral = container in spec.get("ephemeralContainers", [])
        for text in _container(container, security, uid, claims, ephemeral):
            yield f"{container['name']}: {text}"


def _harmless(toleration: Item) -> bool:
    key = toleration.get("key", "")
    temporary = ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")
    return key in temporary or (bool(key) and "kubernetes.io" not in key and "labcluster" not in key)


def _security(security: Item, groups: list[int]) -> Iterator[str]:
    if security.get("supplementalGroups") != groups or security.get("supplementalGroupsPolicy") != "Strict":
        yield f"groups {security.get('supplementalGroups')}"
    if security.get("fsGroup", GID) != GID:
        yield "fsGroup"
    if security.get("seccompProfile") != {"type": "RuntimeDefault"}:
        yield "seccomp"
    known = {
        "runAsUser",
        "runAsGroup",
        "supplementalGroups",
        "supplementalGroupsPolicy",
        "fsGroup",
        "fsGroupChangePolicy",
    }
    for field in set(security) - known - {"seccompProfile", "runAsNonRoot"}:
        yield f"securityContext.{field}"


def _volume(volume: Item) -> Iterator[str]:
    kind, source = next((k, v) for k, v in volume.items() if k != "name")
    claim = kind == "persistentVolumeClaim" and source["claimName"] == "lab"
    names = kind == "configMap" and source["name"] == "labcluster-passwd"
    token = kind == "projected" and [
        (list(one), one.get("serviceAccountToken", {}).get("audience")) for one in source["sources"]
    ] == [(["serviceAccountToken"], "labcluster")]
    if not (kind in ("emptyDir", "downwardAPI") or claim or names or token):
        yield f"volume {kind}"
    if volume["name"] == "labcluster-passwd" and (not names or "items" in source):
        yield "its own passwd"


def _container(container: Item, pod: Item, uid: int, claims: set[str], ephemeral: bool) -> Iterator[str]:
    own = container.get("securityContext", {})
    for field, wanted in (("runAsUser", uid), ("runAsGroup", GID)):
        found = own.get(field, pod.get(field))
        if found != wanted or isinstance(found, bool):
            yield f"{field} {found}"
    if own.get("runAsNonRoot", pod.get("runAsNonRoot")) is not True:
        yield "may be root"
    if own.get("privileged") or own.get("allowPrivilegeEscalation") is not False:
        yield "privileges"
    capabilities = own.get("capabilities", {})
    if capabilities.get("add") or "ALL" not in capabilities.get("drop", []):
        yield "capabilities"
    if own.get("procMount", "Default") != "Default":
        yield "procMount"
    for profile in ("seccompProfile", "appArmorProfile"):
        if own.get(profile, {"type": "RuntimeDefault"}) != {"type": "RuntimeDefault"}:
            yield profile
    known = {
        "runAsUser",
        "runAsGroup",
        "runAsNonRoot",
        "privileged",
        "allowPrivilegeEscalation",
        "capabilities",
    }
    known |= {"procMount", "seccompProfile", "appArmorProfile", "readOnlyRootFilesystem"}
    for field in set(own) - known:
        yield f"securityContext.{field}"
    yield from _image(container["image"])
    yield from _environment(container)
    yield from _mounts(container, claims, ephemeral)
    for field, value in container.items():
        if field == "ports":
            if any(port.get("hostPort") or port.get("hostIP") for port in value):
                yield "a port of the node"
        elif field in ("lifecycle", "livenessProbe", "readinessProbe", "startupProbe"):
            if "'host'" in str(value):
                yield "asks others' ports"
        elif field == "resources":
            asked = (
                set(value) - {"limits", "requests"}
                | set(value.get("limits", {}))
                | set(value.get("requests", {}))
            )
            for name in asked - {"cpu", "memory", "ephemeral-storage", "nvidia.com/gpu"}:
                yield f"resource {name}"
        elif field not in FREE_CONTAINER | {"securityContext", "image", "env", "volumeMounts"}:
            yield f"unknown field {field}"


def _image(image: str) -> Iterator[str]:
    host, _, path = image.partition("/")
    repository = path.split("@")[0].split(":")[0]
    if host != REGISTRY or not (
        repository.split("/")[0] in ("common", PROJECT) or repository == "labcluster/runner"
    ):
        yield f"image {image}"


def _environment(container: Item) -> Iterator[str]:
    devices = [e for e in container.get("env", []) if e["name"] == "NVIDIA_VISIBLE_DEVICES"]
    if _gpus(container) and devices:
        yield "chooses its GPUs"
    if not _gpus(container) and (not devices or any(e.get("value") != "void" for e in devices)):
        yield "sees GPUs that it did not ask for"
    for entry in container.get("env", []):
        source = entry.get("valueFrom", {})
        if set(source) - {"fieldRef", "resourceFieldRef"}:
            yield f"reads {source}"
        if entry["name"].startswith("NVIDIA_IMEX"):
            yield "memory of other nodes' GPUs"


def _mounts(container: Item, claims: set[str], ephemeral: bool) -> Iterator[str]:
    files = {}
    for mount in container.get("volumeMounts", []):
        path = mount["mountPath"]
        if mount["name"] == "labcluster-passwd" or path in ("/etc/passwd", "/etc/group"):
            files[path] = (mount["name"], mount.get("subPath"), mount.get("readOnly"))
        if mount["name"] in claims and ("subPath" in mount or "subPathExpr" in mount):
            yield "a part of the tree that its user may not reach"
    wanted = {f"/etc/{file}": ("labcluster-passwd", file, True) for file in ("passwd", "group")}
    if files != ({} if ephemeral else wanted):
        yield f"passwd and group are {files}"


def _service(item: Item, user: str | None) -> Iterator[str]:
    spec = item["spec"]
    labels = item["metadata"].get("labels", {})
    if labels.get("labcluster.internal/user") != user or labels.get("labcluster.internal/project") != PROJECT:
        yield "a Service of somebody else"
    if spec["type"] != "ClusterIP" or any("nodePort" in port for port in spec["ports"]):
        yield f"a Service of type {spec['type']}"
    if spec.get("selector", {}).get("labcluster.internal/user") != user:
        yield "a Service for others' pods"
    known = {
        "type",
        "ports",
        "selector",
        "sessionAffinity",
        "sessionAffinityConfig",
        "publishNotReadyAddresses",
        "clusterIP",
    }
    known |= {"clusterIPs", "ipFamilies", "ipFamilyPolicy", "internalTrafficPolicy"}
    yield from (f"unknown field {field}" for field in set(spec) - known)
    if item["metadata"]["name"].startswith("run"):
        yield "a run's name"
    yield from _metadata(item["metadata"], "Service", False, False)
