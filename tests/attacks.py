"""Named attacks on the admission policies: what a member might send, and the rule that must refuse it.

One table for the bare apiserver (tests/integration, everything by dry run) and for the running site
(tests/e2e, everything for real, with the member's own token).
"""

from __future__ import annotations

import copy
from typing import Any

Item = dict[str, Any]

USER = "labcluster.internal/user"
QUEUED = {"kueue.x-k8s.io/queue-name": "default"}
HARDENED = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
EVERYTHING = {"operator": "Exists"}
_TERM = {"topologyKey": "kubernetes.io/hostname", "labelSelector": {}}
_PROBE = {"host": "10.0.0.1", "port": 22}
_OWN_TOKEN = {"serviceAccountToken": {"path": "t", "audience": "labcluster"}}
_PASSWD = {"mountPath": "/etc/passwd", "readOnly": True}

#: (rule, path below the pod template, what is put there); {registry} is the site's. They hold for every kind.
TEMPLATE: list[tuple[str, str, Any]] = [
    ("identity/uid", "spec.containers.0.securityContext", {"runAsUser": 20002}),
    ("identity/uid", "spec.initContainers.0.securityContext", {"runAsUser": 0}),
    ("identity/gid", "spec.containers.0.securityContext", {"runAsGroup": 30001}),
    ("identity/root", "spec.containers.0.securityContext", {"runAsNonRoot": False}),
    ("identity/service-account", "spec.serviceAccountName", "other"),
    ("identity/passwd", "spec.containers.0.volumeMounts.0", {"name": "shm", **_PASSWD}),
    ("identity/passwd", "spec.volumes.0", {"name": "labcluster-passwd", "emptyDir": {}}),
    (
        "identity/passwd",
        "spec.containers.0.volumeMounts.0",
        {"name": "labcluster-passwd", "subPath": "group", **_PASSWD},
    ),
    ("identity/system-labels", "metadata.labels", {"labcluster.internal/run": "vision-1"}),
    ("identity/system-labels", "metadata.labels", {"labcluster.internal/gang": "true"}),
    ("identity/system-labels", "metadata.labels", {"kueue.x-k8s.io/pod-group-name": "g", **QUEUED}),
    ("identity/system-labels", "metadata.labels", {"topology.kubernetes.io/zone": "z", **QUEUED}),
    ("identity/owner", "metadata.finalizers", ["example.com/for-ever"]),
    ("node/namespaces", "spec.hostNetwork", True),
    ("node/namespaces", "spec.hostPID", True),
    ("node/namespaces", "spec.hostIPC", True),
    ("node/namespaces", "spec.hostUsers", False),
    ("node/namespaces", "spec.containers.0.ports", [{"containerPort": 80, "hostPort": 80}]),
    (
        "node/privileged",
        "spec.containers.0.securityContext",
        {"privileged": True, "allowPrivilegeEscalation": True},
    ),
    ("node/privileged", "spec.initContainers.0.securityContext", {"allowPrivilegeEscalation": True}),
    (
        "node/capabilities",
        "spec.containers.0.securityContext",
        {"capabilities": {"add": ["NET_RAW"], "drop": ["ALL"]}},
    ),
    ("node/capabilities", "spec.containers.0.securityContext", {"capabilities": {"drop": ["NET_RAW"]}}),
    ("node/confinement", "spec.containers.0.securityContext", {"seccompProfile": {"type": "Unconfined"}}),
    ("node/confinement", "spec.containers.0.securityContext", {"appArmorProfile": {"type": "Unconfined"}}),
    ("node/confinement", "spec.containers.0.securityContext", {"seLinuxOptions": {"type": "spc_t"}}),
    (
        "node/confinement",
        "spec.containers.0.securityContext",
        {"windowsOptions": {"hostProcess": False}},
    ),
    ("node/annotations", "metadata.annotations", {"cdi.k8s.io/x": "nvidia.com/gpu=all"}),
    (
        "node/annotations",
        "metadata.annotations",
        {"container.apparmor.security.beta.kubernetes.io/run": "unconfined"},
    ),
    ("node/annotations", "metadata.annotations", {"io.kubernetes.cri-o.Devices": "/dev/sda"}),
    ("node/annotations", "metadata.annotations", {"io.kubernetes.cri.untrusted-workload": "true"}),
    ("node/annotations", "metadata.annotations", {"run.oci.hooks.stderr": "/dev/null"}),
    ("node/annotations", "metadata.annotations", {"kueue.x-k8s.io/pod-suspending-parent": "x"}),
    ("node/name", "spec.nodeName", "management"),
    ("node/scheduler", "spec.schedulerName", "mine"),
    ("node/scheduler", "spec.runtimeClassName", "nvidia"),
    ("node/tolerations", "spec.tolerations", [EVERYTHING]),
    ("node/tolerations", "spec.tolerations", [{"key": "node.kubernetes.io/unschedulable", **EVERYTHING}]),
    (
        "node/tolerations",
        "spec.tolerations",
        [{"key": "node-role.kubernetes.io/control-plane", **EVERYTHING}],
    ),
    (
        "node/affinity",
        "spec.affinity",
        {
            "podAntiAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": [{**_TERM, "namespaceSelector": {}}]
            }
        },
    ),
    (
        "node/affinity",
        "spec.affinity",
        {
            "podAffinity": {
                "preferredDuringSchedulingIgnoredDuringExecution": [
                    {"weight": 1, "podAffinityTerm": {**_TERM, "namespaces": ["labcluster"]}}
                ]
            }
        },
    ),
    ("node/probes", "spec.containers.0.livenessProbe", {"httpGet": _PROBE}),
    ("node/probes", "spec.containers.0.readinessProbe", {"tcpSocket": _PROBE}),
    ("node/probes", "spec.containers.0.lifecycle", {"postStart": {"httpGet": _PROBE}}),
    ("queue/priority", "spec.priorityClassName", "system-node-critical"),
    ("queue/grace", "spec.terminationGracePeriodSeconds", 100000),
    ("queue/gate", "spec.schedulingGates", [{"name": "example.com/mine"}]),
    ("storage/volumes", "spec.volumes.0", {"name": "x", "hostPath": {"path": "/"}}),
    ("storage/volumes", "spec.volumes.0", {"name": "x", "nfs": {"server": "files", "path": "/lab"}}),
    ("storage/volumes", "spec.volumes.0", {"name": "x", "persistentVolumeClaim": {"claimName": "other"}}),
    ("storage/volumes", "spec.volumes.0", {"name": "x", "secret": {"secretName": "s"}}),
    ("storage/volumes", "spec.volumes.0", {"name": "x", "configMap": {"name": "labcluster-members"}}),
    ("storage/volumes", "spec.volumes.0", {"name": "x", "csi": {"driver": "d"}}),
    ("storage/volumes", "spec.volumes.0", {"name": "x", "image": {"reference": "r"}}),
    ("storage/volumes", "spec.volumes.0", {"name": "x", "gitRepo": {"repository": "r"}}),
    (
        "storage/volumes",
        "spec.volumes.0",
        {"name": "x", "iscsi": {"targetPortal": "1.2.3.4", "iqn": "iqn.2001-04.a:b", "lun": 0}},
    ),
    (
        "storage/volumes",
        "spec.volumes.0",
        {
            "name": "x",
            "ephemeral": {
                "volumeClaimTemplate": {
                    "spec": {
                        "accessModes": ["ReadWriteOnce"],
                        "resources": {"requests": {"storage": "1Gi"}},
                    }
                }
            },
        },
    ),
    *(
        ("storage/volumes", "spec.volumes.0", {"name": "x", "projected": {"sources": sources}})
        for sources in (
            [{"serviceAccountToken": {"path": "t"}}],
            [{"serviceAccountToken": {"path": "t", "audience": "https://kubernetes.default.svc"}}],
            [{"serviceAccountToken": {"path": "t", "audience": "labcluster-x"}}],
            [_OWN_TOKEN, {"serviceAccountToken": {"path": "u"}}],
            [_OWN_TOKEN, {"secret": {"name": "s"}}],
            [_OWN_TOKEN, {"configMap": {"name": "labcluster-members"}}],
            [{"configMap": {"name": "kube-root-ca.crt"}}],
            [{"downwardAPI": {"items": []}}],
            [{"clusterTrustBundle": {"signerName": "example.com/x", "path": "p"}}],
            [],
        )
    ),
    (
        "storage/sub-path",
        "spec.containers.0.volumeMounts.0",
        {"name": "lab", "mountPath": "/x", "subPath": "home/bo"},
    ),
    (
        "storage/sub-path",
        "spec.initContainers.0.volumeMounts",
        [{"name": "lab", "mountPath": "/x", "subPathExpr": "home/$(WHO)"}],
    ),
    ("storage/secrets", "spec.containers.0.envFrom", [{"secretRef": {"name": "s"}}]),
    ("storage/secrets", "spec.containers.0.envFrom", [{"configMapRef": {"name": "labcluster-members"}}]),
    (
        "storage/secrets",
        "spec.containers.0.env",
        [{"name": "X", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}],
    ),
    (
        "storage/secrets",
        "spec.containers.0.env",
        [{"name": "X", "valueFrom": {"configMapKeyRef": {"name": "labcluster-members", "key": "eve"}}}],
    ),
    ("storage/secrets", "spec.imagePullSecrets", [{"name": "registry"}]),
    ("image/registry", "spec.containers.0.image", "docker.io/library/debian:12"),
    ("image/registry", "spec.containers.0.image", "debian"),
    ("image/registry", "spec.initContainers.0.image", "{registry}/speech/secret:1"),
    ("image/registry", "spec.containers.0.image", "{registry}/labcluster/portal:1"),
    ("image/registry", "spec.containers.0.image", "{registry}.evil.example/common/x:1"),
    ("gpu/devices", "spec.containers.0.env", [{"name": "NVIDIA_VISIBLE_DEVICES", "value": "all"}]),
    ("gpu/devices", "spec.initContainers.0.env", [{"name": "NVIDIA_VISIBLE_DEVICES", "value": "0"}]),
    (
        "gpu/devices",
        "spec.initContainers.0.env",
        [
            {"name": "NVIDIA_VISIBLE_DEVICES", "value": "void"},
            {"name": "NVIDIA_VISIBLE_DEVICES", "value": "$(ALL)"},
        ],
    ),
    ("gpu/devices", "spec.containers.0.env", [{"name": "NVIDIA_IMEX_CHANNELS", "value": "0"}]),
    ("gpu/maximum", "spec.containers.0.resources", {"limits": {"nvidia.com/gpu": 5000}}),
    ("gpu/resources", "spec.containers.0.resources", {"limits": {"nvidia.com/mig-1g.5gb": 1}}),
    ("gpu/resources", "spec.resources", {"limits": {"cpu": "1"}}),
    (
        "gpu/devices",
        "spec.resourceClaims",
        [{"name": "gpu", "resourceClaimTemplateName": "all-gpus"}],
    ),
]

#: The same, with paths from the top of a Job.
JOB: list[tuple[str, str, Any]] = [
    ("queue/label", "metadata.labels", {}),
    ("queue/label", "metadata.labels", {"kueue.x-k8s.io/queue-name": "speech"}),
    ("queue/priority", "metadata.labels", {**QUEUED, "kueue.x-k8s.io/priority-class": "mine"}),
    ("queue/managed-by", "spec.managedBy", "example.com/mine"),
    ("gpu/maximum", "spec.parallelism", 5000),
    (
        "identity/system-labels",
        "metadata.labels",
        {**QUEUED, "kueue.x-k8s.io/prebuilt-workload-name": "w"},
    ),
    ("identity/system-labels", "metadata.labels", {**QUEUED, "labcluster.internal/run": "vision-1"}),
    ("identity/run-name", "metadata.name", "run-vision-4711"),
    ("identity/owner", "metadata.finalizers", ["example.com/for-ever"]),
    (
        "identity/owner",
        "metadata.ownerReferences",
        [{"apiVersion": "batch/v1", "kind": "Job", "name": "theirs", "uid": "1", "blockOwnerDeletion": True}],
    ),
    ("node/annotations", "metadata.annotations", {"kueue.x-k8s.io/job-min-parallelism": "1"}),
]

#: The same, with paths from the top of a Pod.
POD: list[tuple[str, str, Any]] = [
    ("queue/label", "metadata.labels", {"kueue.x-k8s.io/queue-name": "speech"}),
    ("identity/system-labels", "metadata.labels", {**QUEUED, "job-name": "theirs"}),
    (
        "identity/system-labels",
        "metadata.labels",
        {**QUEUED, "batch.kubernetes.io/controller-uid": "11111111-2222-3333-4444-555555555555"},
    ),
    ("identity/run-name", "metadata.name", "run-vision-4711-0"),
    ("identity/owner", "metadata.finalizers", ["example.com/for-ever"]),
    (
        "identity/owner",
        "metadata.ownerReferences",
        [{"apiVersion": "batch/v1", "kind": "Job", "name": "theirs", "uid": "1", "controller": True}],
    ),
]

#: The same, with paths from the top of a Service.
SERVICE: list[tuple[str, str, Any]] = [
    ("network/service", "spec.type", "NodePort"),
    ("network/service", "spec.type", "LoadBalancer"),
    ("network/service", "spec", {"type": "ExternalName", "externalName": "files.data"}),
    ("network/service", "spec.externalIPs", ["10.0.0.1"]),
    ("network/selector", "spec.selector", None),
    ("identity/run-name", "metadata.name", "runs"),
    ("identity/system-labels", "metadata.labels", {"labcluster.internal/gang": "true"}),
    ("identity/system-labels", "metadata.annotations", {"service.kubernetes.io/topology-mode": "Auto"}),
    ("identity/owner", "metadata.finalizers", ["example.com/for-ever"]),
]


def put(item: Any, path: str, value: Any) -> Any:
    """Set item.a.0.b, and give back the item; missing maps on the way are made."""
    top = item
    *way, last = path.split(".")
    for step in way:
        item = item[int(step)] if isinstance(item, list) else item.setdefault(step, {})
    if isinstance(item, list):
        item.insert(int(last), value)
    elif value is None:
        item.pop(last, None)
    else:
        item[last] = copy.deepcopy(value)
    return top


def fill(value: Any, registry: str) -> Any:
    """The site's registry in place of {registry}."""
    if isinstance(value, dict):
        return {key: fill(inner, registry) for key, inner in value.items()}
    if isinstance(value, list):
        return [fill(inner, registry) for inner in value]
    return value.replace("{registry}", registry) if isinstance(value, str) else value


def template(registry: str) -> Item:
    """The pod template of a plain manifest, as people write it."""
    return {
        "spec": {
            "restartPolicy": "Never",
            "initContainers": [{"name": "prepare", "image": f"{registry}/common/python-ml:1"}],
            "containers": [
                {
                    "name": "run",
                    "image": f"{registry}/common/python-ml:1",
                    "resources": {"limits": {"nvidia.com/gpu": 1}},
                    "volumeMounts": [{"name": "lab", "mountPath": "/lab"}],
                }
            ],
            "volumes": [
                {"name": "lab", "persistentVolumeClaim": {"claimName": "lab"}},
                {"name": "shm", "emptyDir": {"medium": "Memory"}},
            ],
        }
    }


def job(registry: str, name: str = "attack", namespace: str = "project-vision") -> Item:
    """A Job as a member submits it with kubectl."""
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "namespace": namespace, "labels": dict(QUEUED)},
        "spec": {"suspend": True, "template": template(registry)},
    }


def pod(registry: str, name: str = "attack", namespace: str = "project-vision") -> Item:
    """A Pod as a member submits it with kubectl; it says what Pod Security, which is asked too, demands."""
    spec = template(registry)["spec"]
    for container in spec["containers"] + spec["initContainers"]:
        container["securityContext"] = copy.deepcopy(HARDENED)
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": dict(QUEUED)},
        "spec": {
            **spec,
            "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
            "automountServiceAccountToken": False,
        },
    }


def others(registry: str, namespace: str = "project-vision") -> list[Item]:
    """Every other kind with a pod template, for ada, as its controller would take it."""
    own = {**QUEUED, USER: "ada", "app": "mine"}

    def made(api: str, kind: str, spec: Item, *, labels: Item | None = None) -> Item:
        metadata = {"name": "attack", "namespace": namespace, "labels": dict(labels or own)}
        body = spec if kind == "PodTemplate" else {"spec": spec}
        return {"apiVersion": api, "kind": kind, "metadata": metadata, **body}

    def pods(restart: str = "Always") -> Item:
        found = template(registry)
        found["spec"]["restartPolicy"] = restart
        return {"metadata": {"labels": dict(own)}, **found}

    selector = {"selector": {"matchLabels": {"app": "mine"}}}
    cron = {"metadata": {"labels": dict(own)}, "spec": {"template": pods("Never")}}
    return [
        made("batch/v1", "CronJob", {"schedule": "0 0 1 1 *", "jobTemplate": cron}),
        made("apps/v1", "Deployment", {**selector, "template": pods()}),
        made("apps/v1", "ReplicaSet", {**selector, "template": pods()}),
        made("apps/v1", "StatefulSet", {**selector, "serviceName": "x", "template": pods()}),
        made("apps/v1", "DaemonSet", {**selector, "template": pods()}),
        made("v1", "ReplicationController", {"selector": {"app": "mine"}, "template": pods()}),
        made("v1", "PodTemplate", {"template": pods("Never")}),
    ]


#: Where the pod template of a kind is.
TEMPLATES = {"CronJob": "spec.jobTemplate.spec.template", "PodTemplate": "template"}


def service(name: str = "attack", namespace: str = "project-vision") -> Item:
    """A Service as a member submits it with kubectl."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"selector": {"app": "mine"}, "ports": [{"port": 80}]},
    }


def attacks(registry: str) -> list[tuple[str, str, Item]]:
    """(name, rule, object) of every attack in the tables above."""
    found = [
        (
            f"job {rule} {path} {number}",
            rule,
            put(job(registry), f"spec.template.{path}", fill(value, registry)),
        )
        for number, (rule, path, value) in enumerate(TEMPLATE)
    ]
    for kind, table, make in (
        ("job", JOB, lambda: job(registry)),
        ("pod", POD, lambda: pod(registry)),
        ("service", SERVICE, service),
    ):
        found += [
            (f"{kind} {rule} {path} {number}", rule, put(make(), path, fill(value, registry)))
            for number, (rule, path, value) in enumerate(table)
        ]
    return found


def collection(item: Item) -> str:
    """Where an object is made."""
    group = item["apiVersion"]
    root = f"/api/{group}" if "/" not in group else f"/apis/{group}"
    return f"{root}/namespaces/{item['metadata']['namespace']}/{item['kind'].lower()}s"
