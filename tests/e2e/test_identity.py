"""Who somebody is, on the running site: directories, projects, runs, and what the policies refuse."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from labcluster.adapters.kube import KubeApi
from labcluster.errors import NotAllowedError

pytestmark = pytest.mark.e2e

MERGE = "application/merge-patch+json"
MEMBERS = "/api/v1/namespaces/project-{}/configmaps/labcluster-members"
REPAIR_SECONDS = 30


@pytest.fixture(scope="module")
def api(site: Any) -> KubeApi:
    """The cluster as its administrator."""
    return KubeApi.load(site.secrets / "kubeconfig")


def within(seconds: float, check: Callable[[], bool]) -> float:
    """How long it took until `check` held."""
    started = time.monotonic()
    while not check():
        assert time.monotonic() - started < seconds, "still not so"
        time.sleep(0.2)
    return time.monotonic() - started


def members(api: KubeApi, project: str) -> set[str]:
    """Whom the policies take for members."""
    return {name for name in api.get(MEMBERS.format(project))["data"] if not name.startswith(".")}


def test_people_and_projects_have_their_directories(on_host: Any, site: Any) -> None:
    done = on_host(
        site.first("file_server"),
        "cd /lab && stat -c '%n %a %u:%g' home/ada home/bo scratch/ada projects/vision projects/vision/runs",
    )
    assert done.code == 0, done.err
    found = {line.split()[0]: line.split()[1:] for line in done.out.splitlines()}
    uid = found["home/ada"][1].split(":")[0]
    gid = found["projects/vision"][1].split(":")[1]
    assert int(uid) in range(20000, 30000)
    assert int(gid) in range(30000, 40000)
    assert found["home/ada"] == found["scratch/ada"] == ["700", f"{uid}:{uid}"]
    assert found["projects/vision"] == ["2750", f"0:{gid}"]
    assert found["projects/vision/runs"] == ["2770", f"0:{gid}"]


def test_run_has_the_ids_that_ssh_has(ssh_as: Any) -> None:
    ada = ssh_as("ada")
    own = ada("id -u; id -G").out.split()
    done = ada(
        "cd ~ && labctl submit --project vision --memory 256M --follow -- "
        "sh -c 'echo ids $(id -u) $(id -g) / $(id -G); grep -E \"NoNewPrivs|CapEff\" /proc/self/status'"
    )
    assert done.code == 0, done.err
    line = next(line for line in done.out.splitlines() if line.startswith("ids "))
    uid, gid, groups = line.split()[1], line.split()[2], line.split("/")[1].split()
    assert uid == own[0]
    assert gid in own[1:]
    # The groups of the projects, and none besides: not even one's own group of the login node.
    assert set(groups) == {group for group in own[1:] if 30000 <= int(group) < 40000}
    assert "NoNewPrivs:\t1" in done.out
    assert "CapEff:\t0000000000000000" in done.out


def test_member_of_another_project_is_turned_away(ssh_as: Any) -> None:
    done = ssh_as("bo")("cd ~ && labctl submit --project vision -- true")
    assert done.code == 3, done
    assert "vision" in done.err


@pytest.mark.parametrize(
    ("rule", "change"),
    [
        ("storage/volumes", {"volumes": [{"name": "x", "hostPath": {"path": "/"}}]}),
        ("node/namespaces", {"hostNetwork": True}),
        ("node/name", {"nodeName": "management"}),
        ("identity/uid", {"containers": [{"name": "x", "securityContext": {"runAsUser": 20001}}]}),
    ],
)
def test_policy_refuses_with_the_name_of_its_rule(
    api: KubeApi, site: Any, rule: str, change: dict[str, Any]
) -> None:
    image = f"registry.{site.variables['cluster_domain']}:5000/common/python-ml"
    spec: dict[str, Any] = {"restartPolicy": "Never", "containers": [{"name": "x"}], **change}
    for container in spec["containers"]:
        container["image"] = image
    job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "attack", "labels": {"kueue.x-k8s.io/queue-name": "default"}},
        "spec": {"template": {"spec": spec}},
    }
    with pytest.raises(NotAllowedError, match=rule):
        api.request(
            "POST",
            "/apis/batch/v1/namespaces/project-vision/jobs",
            query={"dryRun": "All"},
            body=job,
            user="ada",
        )


@pytest.fixture
def bo_in_vision(ssh_as: Any, site: Any) -> Iterator[Callable[[str], dict[str, Any]]]:
    """labctl admin project add-member|remove-member vision bo; bo is out again afterwards."""
    admin = ssh_as(site.variables["ansible_user"])

    def change(verb: str) -> dict[str, Any]:
        done = admin(f"labctl admin project {verb} vision bo --json")
        assert done.code == 0, done.err
        answer: dict[str, Any] = json.loads(done.out)
        return answer

    yield change
    change("remove-member")


def test_member_comes_and_goes_everywhere(api: KubeApi, bo_in_vision: Any) -> None:
    assert bo_in_vision("add-member")["changed"]
    assert not bo_in_vision("add-member")["changed"]
    within(REPAIR_SECONDS, lambda: "bo" in members(api, "vision"))
    job = "/apis/batch/v1/namespaces/project-vision/jobs"
    within(5, lambda: _may_list(api, job, "bo"))
    assert bo_in_vision("remove-member")["changed"]
    within(REPAIR_SECONDS, lambda: "bo" not in members(api, "vision"))
    within(5, lambda: not _may_list(api, job, "bo"))


def _may_list(api: KubeApi, path: str, user: str) -> bool:
    try:
        api.list(path, user=user)
    except NotAllowedError:
        return False
    return True


def test_drift_is_repaired(api: KubeApi) -> None:
    policy = "/apis/networking.k8s.io/v1/namespaces/project-vision/networkpolicies/labcluster"
    binding = "/apis/rbac.authorization.k8s.io/v1/namespaces/project-vision/rolebindings/labcluster-members"
    api.delete(policy)
    api.delete(binding)
    api.request("PATCH", MEMBERS.format("vision"), body={"data": {"mallory": "0 0 0"}}, content_type=MERGE)
    names = "/apis/networking.k8s.io/v1/namespaces/project-vision/networkpolicies"
    jobs = "/apis/batch/v1/namespaces/project-vision/jobs"
    seconds = [
        within(REPAIR_SECONDS, lambda: "mallory" not in members(api, "vision")),
        within(REPAIR_SECONDS, lambda: any(p["metadata"]["name"] == "labcluster" for p in api.list(names))),
        within(REPAIR_SECONDS, lambda: _may_list(api, jobs, "ada")),
    ]
    assert sum(seconds) < REPAIR_SECONDS


def test_projects_say_that_they_are_ready(api: KubeApi) -> None:
    for item in api.list("/apis/labcluster.internal/v1/projects"):
        assert [c["status"] for c in item["status"]["conditions"] if c["type"] == "Ready"] == ["True"], item
