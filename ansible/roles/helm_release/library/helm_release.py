#!/usr/bin/python
"""Ansible module: deploy Helm charts and see to it that they work."""

from __future__ import annotations

DOCUMENTATION = r"""
module: helm_release
short_description: Deploy Helm charts and see to it that they work
description:
  - Installs or upgrades a list of releases in its order through Helm's SDK; there is no helm program.
  - A release is unchanged when the newest revision was made from the same chart content and values and none
    of its parts was deleted. That is found out without rendering, so that a run with nothing to do takes a
    second or two.
  - A release that an interrupted run left in C(pending-install), C(pending-upgrade) or C(pending-rollback) is
    repaired by forgetting the unfinished revision and deploying again; no object is removed for it.
  - Whether changed or not, every release is waited for; when one does not become ready the module fails with
    the part that is not ready, the pod's state, its last events and the last lines of its log.
  - Runs with the project's own Python, on the host that holds the kubeconfig.
options:
  kubeconfig:
    description: Kubeconfig of an administrator.
    type: path
    required: true
  charts_dir:
    description: Folder that has one folder a chart.
    type: path
    required: true
  archives_dir:
    description: Folder of the packed charts that charts depend on.
    type: path
  releases:
    description: What should be deployed, in this order.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Name of the release, and of the chart's folder unless O(releases[].chart) is given.
        type: str
        required: true
      namespace:
        description: Where it lives. The namespace must exist.
        type: str
        required: true
      chart:
        description: Folder of the chart in O(charts_dir).
        type: str
      values:
        description: Values over the chart's own.
        type: dict
        default: {}
      state:
        description: Whether the release should be there.
        choices: [present, absent]
        default: present
        type: str
      timeout:
        description: Seconds within which its parts must work.
        type: int
        default: 300
      wait:
        description: Wait for it before the next release; otherwise it is waited for after the last one.
        type: bool
        default: true
author:
  - labcluster
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
"""

EXAMPLES = r"""
- name: Deploy the registry
  helm_release:
    kubeconfig: "{{ site_dir }}/secrets/kubeconfig"
    charts_dir: "{{ playbook_dir }}/../../charts"
    releases:
      - name: registry
        namespace: labcluster
        values: {hostPort: 5000}
"""

RETURN = r"""
releases:
  description: What was done (in check mode, what would be done) for each release.
  returned: always
  type: list
  elements: dict
  contains:
    name:
      description: Name of the release.
      type: str
    action:
      description: One of none, install, upgrade, repair, remove.
      type: str
    why:
      description: The reason, in words.
      type: str
    revision:
      description: The revision it has now.
      type: int
"""

import fcntl  # noqa: E402
import time  # noqa: E402
import traceback  # noqa: E402
from contextlib import contextmanager  # noqa: E402
from datetime import UTC, datetime  # noqa: E402
from pathlib import Path  # noqa: E402

from ansible.module_utils.basic import AnsibleModule, missing_required_lib  # noqa: E402

try:
    from labcluster.adapters.helm import Chart, Helm, HelmError, Release, objects, parts, readable
    from labcluster.adapters.kube import KubeApi
    from labcluster.adapters.rollout import WATCHED_KINDS, Part, Rollout
    from labcluster.errors import LabclusterError
    from labcluster.services.releases import decide

    IMPORT_ERROR = None
except ImportError:
    IMPORT_ERROR = traceback.format_exc()

RELEASE_SPEC = {
    "name": {"type": "str", "required": True},
    "namespace": {"type": "str", "required": True},
    "chart": {"type": "str"},
    "values": {"type": "dict", "default": {}},
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "timeout": {"type": "int", "default": 300},
    "wait": {"type": "bool", "default": True},
}
# A webhook of a release that is ready by its probes may need some seconds more until calls reach it.
WEBHOOK_PATIENCE_SECONDS = 60


class Deployment:
    """One call of the module."""

    def __init__(self, module):
        self.module = module
        self.params = module.params
        self.kubeconfig = Path(self.params["kubeconfig"])
        self.helm = Helm(self.kubeconfig)
        self.api = KubeApi.load(self.kubeconfig)
        self.rollout = Rollout(self.api)
        self.done = []
        self.diffs = []

    def run(self):
        """Every release in its order."""
        deployed = self.helm.deployed()
        later = []
        for wanted in self.params["releases"]:
            newest = deployed.get((wanted["namespace"], wanted["name"]))
            with named(wanted):
                if wanted["state"] == "absent":
                    self.remove(wanted, newest)
                    continue
                found = self.deploy(wanted, newest)
                if self.module.check_mode:
                    continue
                if wanted["wait"]:
                    self.rollout.wait(found, wanted["timeout"])
                else:
                    later.append((wanted, found))
        for wanted, found in later:
            with named(wanted):
                self.rollout.wait(found, wanted["timeout"])

    def deploy(self, wanted, newest):
        """Make one release as wanted; its parts."""
        release = self.release(wanted)
        manifest = self.helm.manifest(newest) if newest else ""
        decision = self.decide(release, newest, manifest)
        while decision.action == "wait" and not self.module.check_mode:
            time.sleep(2)
            newest = self.helm.deployed().get((release.namespace, release.name))
            decision = self.decide(release, newest, manifest)
        self.note(wanted, decision.action, decision.why, newest.revision if newest else 0)
        if decision.action == "none":
            return self.parts(manifest, release)
        if self.module._diff:
            self.diff(release, manifest)
        if self.module.check_mode:
            return []
        if decision.action == "repair":
            self.helm.forget(newest, self.api)
            newest = self.helm.deployed().get((release.namespace, release.name))
        revision = self.apply(release, newest)
        self.done[-1]["revision"] = revision.revision
        return self.parts(self.helm.manifest(revision), release)

    def apply(self, release, newest):
        end = time.monotonic() + WEBHOOK_PATIENCE_SECONDS
        while True:
            try:
                return self.helm.apply(release, newest)
            except HelmError as error:
                if "failed calling webhook" not in error.detail or time.monotonic() > end:
                    raise
            time.sleep(2)
            newest = self.helm.deployed().get((release.namespace, release.name))

    def decide(self, release, newest, manifest):
        missing = []
        if newest is not None and newest.digest == release.digest:
            missing = self.rollout.missing(self.parts(manifest, release))
        return decide(release.digest, newest, missing, datetime.now(UTC))

    def remove(self, wanted, newest):
        if newest is None:
            self.note(wanted, "none", "it is not deployed", 0)
            return
        self.note(wanted, "remove", "it should be absent", newest.revision)
        if not self.module.check_mode:
            self.helm.uninstall(newest)

    def release(self, wanted):
        folder = Path(self.params["charts_dir"]) / (wanted["chart"] or wanted["name"])
        archives = Path(self.params["archives_dir"]) if self.params["archives_dir"] else None
        return Release(wanted["name"], wanted["namespace"], Chart.read(folder, archives), wanted["values"])

    def parts(self, manifest, release):
        return [Part(*found) for found in parts(manifest, release.namespace, WATCHED_KINDS)]

    def note(self, wanted, action, why, revision):
        self.done.append({"name": wanted["name"], "action": action, "why": why, "revision": revision})

    def diff(self, release, manifest):
        after = release.chart.render(
            release.values, name=release.name, namespace=release.namespace, upgrade=bool(manifest)
        )
        self.diffs.append(
            {
                "before_header": f"{release.name} (deployed)",
                "after_header": f"{release.name} (wanted)",
                "before": readable(objects(manifest)),
                "after": readable(after),
            }
        )


@contextmanager
def named(wanted):
    """Failures say which release they are about."""
    try:
        yield
    except LabclusterError as error:
        raise type(error)(f"release {wanted['name']}: {error.detail}") from error


@contextmanager
def only_one(kubeconfig, check_mode):
    """Hold a lock beside the kubeconfig, so that an interrupted run can be told from a running one."""
    if check_mode:
        yield
        return
    with Path(f"{kubeconfig}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def main():
    module = AnsibleModule(
        argument_spec={
            "kubeconfig": {"type": "path", "required": True},
            "charts_dir": {"type": "path", "required": True},
            "archives_dir": {"type": "path"},
            "releases": {"type": "list", "elements": "dict", "required": True, "options": RELEASE_SPEC},
        },
        supports_check_mode=True,
    )
    if IMPORT_ERROR:
        module.fail_json(msg=missing_required_lib("labcluster"), exception=IMPORT_ERROR)
    done, diffs = [], []
    try:
        with only_one(module.params["kubeconfig"], module.check_mode):
            deployment = Deployment(module)
            done, diffs = deployment.done, deployment.diffs
            deployment.run()
    except LabclusterError as error:
        module.fail_json(msg=error.detail, changed=changed(done), releases=done, diff=diffs)
    module.exit_json(changed=changed(done), releases=done, diff=diffs)


def changed(done):
    return any(item["action"] != "none" for item in done)


if __name__ == "__main__":
    main()
