#!/usr/bin/python
"""Ansible module: what is really there of a lab's podman containers."""

from __future__ import annotations

DOCUMENTATION = r"""
module: lab_hosts_info
short_description: Tell which of a lab's containers really run
description:
  - podman's own list may say C(running) while nothing runs, when the process tree above the containers was killed or
    the machine was restored. This module judges by the processes in C(/proc) and by the links in the network namespace.
options:
  lab:
    description: The lab's name, the value of the label C(labcluster.lab).
    type: str
    required: true
  hosts:
    description: Names and addresses to look for.
    type: dict
    required: true
author:
  - labcluster
attributes:
  check_mode:
    support: full
"""

EXAMPLES = r"""
- name: Look at the lab
  lab_hosts_info:
    lab: lab
    hosts: {login: [10.77.0.10, 10.77.1.10]}
"""

RETURN = r"""
hosts:
  description: For each host whether its container exists, its init lives, it is wired to the networks, and what podman believes.
  returned: always
  type: dict
"""

import json  # noqa: E402
from pathlib import Path  # noqa: E402

from ansible.module_utils.basic import AnsibleModule  # noqa: E402


def is_alive(pid, container):
    """Whether pid is a living process of that container (a number may have been given to another process)."""
    try:
        state = Path("/proc/%d/stat" % pid).read_text().rpartition(")")[2].split()[0]
        groups = Path("/proc/%d/cgroup" % pid).read_text()
    except OSError:
        return False
    return state not in "ZX" and container in groups


def links(module, pid=None):
    """The network links of a process, or of this machine."""
    enter = ["nsenter", "--target", str(pid), "--net"] if pid else []
    code, out, _err = module.run_command([*enter, "ip", "-json", "address", "show"])
    return json.loads(out) if code == 0 and out.strip() else []


def is_wired(module, pid, addresses, outside):
    """Whether every address is on a link whose other end is in a bridge that is up."""
    bridges = {link["ifname"] for link in outside.values() if "UP" in link["flags"]}
    found = set()
    for link in links(module, pid):
        peer = outside.get(link.get("link_index"), {})
        if peer.get("master") in bridges and "UP" in link["flags"]:
            found.update(item["local"] for item in link["addr_info"])
    return set(addresses) <= found


def main():
    """Ask podman for the list, then look for oneself."""
    module = AnsibleModule(
        argument_spec={
            "lab": {"type": "str", "required": True},
            "hosts": {"type": "dict", "required": True},
        },
        supports_check_mode=True,
    )
    lab = module.params["lab"]
    _code, out, _err = module.run_command(
        ["podman", "ps", "--all", "--filter", "label=labcluster.lab=" + lab, "--format", "json"],
        check_rc=True,
    )
    containers = {item["Labels"]["labcluster.host"]: item for item in json.loads(out or "[]") or []}
    outside = {link["ifindex"]: link for link in links(module)}
    hosts = {}
    for name, addresses in module.params["hosts"].items():
        item = containers.get(name)
        if item is None or item["StartedAt"] <= 0:
            # A container that never started is what an interrupted run left: it lacks its keys.
            hosts[name] = {
                "exists": False,
                "unfinished": bool(item),
                "believed": False,
                "alive": False,
                "wired": False,
            }
            continue
        alive = is_alive(item["Pid"], item["Id"]) if item["Pid"] else False
        hosts[name] = {
            "exists": True,
            "id": item["Id"],
            "alive": alive,
            "wired": alive and is_wired(module, item["Pid"], addresses, outside),
            # podman takes it for running, whatever the processes say.
            "believed": item["State"] in ("running", "paused", "stopping"),
        }
    module.exit_json(changed=False, hosts=hosts)


if __name__ == "__main__":
    main()
