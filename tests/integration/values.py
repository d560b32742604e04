"""What the fields of generated objects are set to: harmless values and those that must be refused."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from members import REGISTRY

Item = dict[str, Any]

IDS = st.sampled_from([0, 1, 1000, 20000, 20001, 20002, 30000, 30001, 30002, 65534])
FLAG = st.booleans()
USERS = st.sampled_from(["ada", "eve", "bo", "root", "nobody", ""])
GPU = "nvidia.com/gpu"


def one(*values: Any) -> st.SearchStrategy[Any]:
    """Any of the values."""
    return st.sampled_from(values)


def few(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Item]:
    """A map with one or two of the fields: with more, one of them is always refused and hides the others."""
    names = st.lists(st.sampled_from(sorted(fields)), min_size=1, max_size=2, unique=True)
    return names.flatmap(lambda chosen: st.fixed_dictionaries({name: fields[name] for name in chosen}))


def some(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Item]:
    """A map with any of the fields."""
    return st.fixed_dictionaries({}, optional=fields)


PROFILE = some().flatmap(
    lambda _: one(
        {"type": "RuntimeDefault"}, {"type": "Unconfined"}, {"type": "Localhost", "localhostProfile": "p"}
    )
)
POD_CONTEXT = some(
    runAsUser=IDS,
    runAsGroup=IDS,
    fsGroup=IDS,
    fsGroupChangePolicy=one("Always", "OnRootMismatch"),
    supplementalGroups=st.lists(IDS, max_size=3),
    supplementalGroupsPolicy=one("Merge", "Strict"),
    runAsNonRoot=FLAG,
    seccompProfile=PROFILE,
    appArmorProfile=PROFILE,
    seLinuxOptions=some(type=one("spc_t"), level=one("s0:c1")),
    sysctls=one([], [{"name": "kernel.shm_rmid_forced", "value": "1"}]),
)
CAPABILITIES = some(
    add=one([], ["NET_RAW"], ["SYS_ADMIN"], ["NET_BIND_SERVICE"]), drop=one([], ["ALL"], ["NET_RAW"])
)
CONTEXT = few(
    runAsUser=IDS,
    runAsGroup=IDS,
    runAsNonRoot=FLAG,
    readOnlyRootFilesystem=FLAG,
    allowPrivilegeEscalation=one(False, False, True),
    privileged=one(False, False, False, True),
    capabilities=CAPABILITIES,
    procMount=one("Default", "Unmasked"),
    seccompProfile=PROFILE,
    appArmorProfile=PROFILE,
)
IMAGE = one(
    f"{REGISTRY}/common/python-ml:1",
    f"{REGISTRY}/common/deep/er@sha256:{'1' * 64}",
    f"{REGISTRY}/vision/mine:1",
    f"{REGISTRY}/visionary/x:1",
    f"{REGISTRY}/speech/theirs:1",
    f"{REGISTRY}/labcluster/runner:1",
    f"{REGISTRY}/labcluster/runner-x:1",
    f"{REGISTRY}/labcluster/portal:1",
    f"x.{REGISTRY}/common/a:1",
    "registry.lab.internal/common/a:1",
    "debian:12",
    "quay.io/vision/x",
)
_SOURCE = one(
    {"emptyDir": {}},
    {"emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
    {"downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
    {"persistentVolumeClaim": {"claimName": "lab"}},
    {"persistentVolumeClaim": {"claimName": "lab", "readOnly": True}},
    {"persistentVolumeClaim": {"claimName": "lab-speech"}},
    {"configMap": {"name": "labcluster-passwd"}},
    {"configMap": {"name": "labcluster-passwd", "items": [{"key": "passwd", "path": "group"}]}},
    {"configMap": {"name": "labcluster-members"}},
    {"secret": {"secretName": "s"}},
    {"hostPath": {"path": "/lab"}},
    {"nfs": {"server": "files", "path": "/lab"}},
    {"projected": {"sources": [{"serviceAccountToken": {"path": "t", "expirationSeconds": 600}}]}},
    {"projected": {"sources": [{"serviceAccountToken": {"path": "t", "audience": "labcluster"}}]}},
    {"projected": {"sources": [{"serviceAccountToken": {"path": "t", "audience": "other"}}]}},
    {
        "projected": {
            "sources": [
                {"serviceAccountToken": {"path": "t", "audience": "labcluster"}},
                {"serviceAccountToken": {"path": "u"}},
            ]
        }
    },
    {"projected": {"sources": [{"configMap": {"name": "labcluster-members"}}]}},
    {"image": {"reference": "debian:12"}},
    {"csi": {"driver": "d.example.com"}},
    {"gitRepo": {"repository": "https://example.com/r"}},
    {"cephfs": {"monitors": ["1.2.3.4"]}},
    {"glusterfs": {"endpoints": "e", "path": "p"}},
    {"fc": {"targetWWNs": ["1"], "lun": 0}},
)
VOLUME = st.tuples(one("extra", "more", "labcluster-passwd", "x"), _SOURCE).map(
    lambda v: {"name": v[0], **v[1]}
)
MOUNT = st.fixed_dictionaries(
    {
        "name": one("lab", "shm", "labcluster-passwd", "extra"),
        "mountPath": one("/etc/passwd", "/etc/group", "/etc/shadow", "/mnt", "/lab/x", "/etc"),
    },
    optional={
        "subPath": one("passwd", "group", "home/bo", "projects"),
        "subPathExpr": one("home/$(WHO)"),
        "readOnly": FLAG,
    },
)
ENTRY = one(
    {"name": "A", "value": "b"},
    {"name": "WHO", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
    {"name": "NVIDIA_VISIBLE_DEVICES", "value": "all"},
    {"name": "NVIDIA_VISIBLE_DEVICES", "value": "void"},
    {"name": "NVIDIA_VISIBLE_DEVICES", "value": "$(A)"},
    {"name": "NVIDIA_VISIBLE_DEVICES"},
    {"name": "NVIDIA_VISIBLE_DEVICES", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
    {"name": "NVIDIA_IMEX_CHANNELS", "value": "0"},
    {"name": "NVIDIA_DRIVER_CAPABILITIES", "value": "all"},
    {"name": "S", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
    {"name": "C", "valueFrom": {"configMapKeyRef": {"name": "labcluster-members", "key": "eve"}}},
)
HANDLER = one(
    {"exec": {"command": ["true"]}},
    {"httpGet": {"port": 80}},
    {"httpGet": {"port": 22, "host": "10.0.0.1"}},
    {"tcpSocket": {"port": 22, "host": "files"}},
)
RESOURCES = one(
    {"limits": {"cpu": "1", "memory": "1Gi"}},
    {"limits": {GPU: 0}},
    {"limits": {GPU: 1}},
    {"limits": {GPU: "2"}},
    {"limits": {GPU: 3}},
    {"limits": {GPU: "1k"}},
    {"limits": {"nvidia.com/mig-1g.5gb": 1}},
    {"limits": {"example.com/fpga": 1}},
    {"limits": {"ephemeral-storage": "1Gi"}},
)
KEYS = one(
    "note",
    "app.kubernetes.io/name",
    "kubectl.kubernetes.io/default-container",
    "labcluster.internal/run",
    "labcluster.internal/gang",
    "labcluster.internal/project",
    "labcluster.internal/user",
    "kueue.x-k8s.io/queue-name",
    "kueue.x-k8s.io/priority-class",
    "kueue.x-k8s.io/pod-group-name",
    "kueue.x-k8s.io/prebuilt-workload-name",
    "kueue.x-k8s.io/managed",
    "batch.kubernetes.io/controller-uid",
    "cdi.k8s.io/gpus",
    "io.kubernetes.cri-o.Devices",
    "io.katacontainers.config.hypervisor.path",
    "container.apparmor.security.beta.kubernetes.io/run",
    "job-name",
    "controller-uid",
    "pod-template-hash",
)
VALUES = one(
    "default", "ada", "eve", "vision", "speech", "true", "unconfined", "labcluster-low", "vision-7", "x"
)
TERM = some(namespaces=one(["labcluster"]), namespaceSelector=one({}), labelSelector=one({})).map(
    lambda t: {"topologyKey": "kubernetes.io/hostname", **t}
)
OWNER = st.fixed_dictionaries(
    {
        "apiVersion": one("batch/v1", "apps/v1"),
        "kind": one("Job", "ReplicaSet"),
        "name": one("theirs"),
        "uid": one("11111111-2222-3333-4444-555555555555"),
    },
    optional={"controller": FLAG, "blockOwnerDeletion": FLAG},
)

#: Fields of the pod, with what they are set to.
POD_FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "securityContext": POD_CONTEXT,
    "hostNetwork": FLAG,
    "hostPID": FLAG,
    "hostIPC": FLAG,
    "hostUsers": FLAG,
    "shareProcessNamespace": FLAG,
    "automountServiceAccountToken": FLAG,
    "serviceAccountName": one("default", "other"),
    "nodeName": one("gpu1", "management"),
    "nodeSelector": one({"kubernetes.io/hostname": "management"}, {"gpu": "a"}),
    "schedulerName": one("default-scheduler", "mine"),
    "runtimeClassName": one("nvidia"),
    "priorityClassName": one("system-node-critical", "labcluster-low"),
    "tolerations": st.lists(
        some(
            key=one("node-role.kubernetes.io/control-plane", "node.kubernetes.io/unschedulable", "gpu"),
            effect=one("NoSchedule"),
        ).map(lambda t: {"operator": "Exists", **t}),
        max_size=2,
    ),
    "affinity": st.one_of(
        TERM.map(lambda t: {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [t]}}),
        TERM.map(
            lambda t: {
                "podAffinity": {
                    "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1, "podAffinityTerm": t}]
                }
            }
        ),
    ),
    "terminationGracePeriodSeconds": one(0, 30, 3600, 3601, 10**6),
    "hostname": one("run-vision-7-0"),
    "subdomain": one("runs"),
    "dnsPolicy": one("ClusterFirst", "Default"),
    "hostAliases": one([{"ip": "1.2.3.4", "hostnames": ["portal"]}]),
    "imagePullSecrets": one([{"name": "s"}]),
    "schedulingGates": one([{"name": "example.com/x"}], [{"name": "kueue.x-k8s.io/admission"}]),
    "resources": one({"limits": {"cpu": "1"}}),
    "resourceClaims": one([{"name": "g", "resourceClaimName": "all"}]),
    "overhead": one({"cpu": "1"}),
    "os": one({"name": "linux"}, {"name": "windows"}),
    "setHostnameAsFQDN": FLAG,
}

#: Fields of a container, with what they are set to.
CONTAINER_FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "securityContext": CONTEXT,
    "image": IMAGE,
    "env": st.lists(ENTRY, max_size=3),
    "envFrom": one([{"secretRef": {"name": "s"}}], [{"configMapRef": {"name": "labcluster-members"}}]),
    "resources": RESOURCES,
    "ports": one([{"containerPort": 80}], [{"containerPort": 80, "hostPort": 80}]),
    "workingDir": one("/lab"),
    "lifecycle": HANDLER.map(lambda h: {"preStop": h}),
    "volumeDevices": one([{"name": "lab", "devicePath": "/dev/x"}]),
    "stdin": FLAG,
    "terminationMessagePath": one("/etc/passwd", "/tmp/x"),
}

SERVICE_FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "type": one("ClusterIP", "NodePort", "LoadBalancer", "ExternalName"),
    "externalName": one("files.data"),
    "externalIPs": one([], ["10.0.0.1"]),
    "clusterIP": one("None", ""),
    "selector": one({"labcluster.internal/user": "eve"}, {"labcluster.internal/gang": "true"}, {}),
    "loadBalancerIP": one("10.0.0.1"),
    "publishNotReadyAddresses": FLAG,
    "sessionAffinity": one("None", "ClientIP"),
}
