#!/usr/bin/python
"""Ansible module: prove the data network from one host to all others."""

from __future__ import annotations

DOCUMENTATION = r"""
module: data_nic_check
short_description: Prove an interface and the way from it to every other host
description:
  - Checks that the interface has its address and MTU and is up, then pings every peer at once, with packets of the
    full MTU that must not be fragmented. Where that fails a small ping tells a dead path from one with a smaller MTU.
  - Changes nothing.
options:
  interface: {description: Name of the interface., type: str, required: true}
  address: {description: Address it must have., type: str, required: true}
  mtu: {description: MTU it must have., type: int, required: true}
  peers:
    description: Other hosts.
    type: list
    elements: dict
    required: true
    suboptions:
      name: {description: Name of the host., type: str, required: true}
      host: {description: Its C(data_address) and C(data_mtu)., type: dict, required: true}
  timeout: {description: Seconds that an answer may take., type: int, default: 2}
author:
  - labcluster
attributes:
  check_mode:
    support: full
"""

EXAMPLES = r"""
- name: Prove the data network
  data_nic_check:
    interface: eth1
    address: 10.77.1.10
    mtu: 9000
    peers:
      - {name: files, host: {data_address: 10.77.1.12, data_mtu: 9000}}
"""

RETURN = r"""
pairs:
  description: Peers that were reached.
  returned: success
  type: list
  elements: str
"""

import json  # noqa: E402
import subprocess  # noqa: E402

from ansible.module_utils.basic import AnsibleModule  # noqa: E402

#: IPv4 and ICMP headers around a ping's payload.
HEADERS = 28


def interface_faults(module, name, address, mtu):
    """What is wrong with the interface itself."""
    code, out, _err = module.run_command(["ip", "-json", "address", "show", "dev", name])
    if code:
        return [f"there is no interface {name} on this host (data_nic_interface)"]
    link = json.loads(out)[0]
    faults = []
    if "UP" not in link["flags"] or "LOWER_UP" not in link["flags"]:
        faults.append(f"{name} is down: no cable, or the switch port is off")
    if address not in [item["local"] for item in link["addr_info"]]:
        faults.append(f"{name} does not have the address {address} (data_nic_address)")
    if link["mtu"] != mtu:
        faults.append("{} has MTU {}, not {} (data_nic_mtu)".format(name, link["mtu"], mtu))
    return faults


def ping(interface, size, address, timeout):
    """Start a ping of whole packets of that size; three tries, one answer is enough."""
    arguments = ["ping", "-n", "-q", "-M", "do", "-I", interface, "-s", str(size - HEADERS), "-c", "3", "-i", "0.3",
                 "-W", str(timeout), address]  # fmt: skip
    return subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def main():
    """All peers at once, then a closer look at those that did not answer."""
    module = AnsibleModule(
        argument_spec={
            "interface": {"type": "str", "required": True},
            "address": {"type": "str", "required": True},
            "mtu": {"type": "int", "required": True},
            "peers": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "name": {"type": "str", "required": True},
                    "host": {"type": "dict", "required": True},
                },
            },
            "timeout": {"type": "int", "default": 2},
        },
        supports_check_mode=True,
    )
    interface, mtu, timeout = (module.params[key] for key in ("interface", "mtu", "timeout"))
    faults = interface_faults(module, interface, module.params["address"], mtu)
    if faults:
        module.fail_json(msg="data network: " + "; ".join(faults))

    pings = []
    for peer in module.params["peers"]:
        address, size = peer["host"]["data_address"], min(mtu, int(peer["host"]["data_mtu"]))
        pings.append((peer["name"], address, size, ping(interface, size, address, timeout)))
    for name, address, size, running in pings:
        if running.wait() == 0:
            continue
        small = ping(interface, 100, address, timeout).wait() == 0
        faults.append(
            "%s (%s) answers small packets but not packets of %d bytes: a switch or an interface on the way has a smaller "
            "MTU" % (name, address, size)
            if small
            else f"{name} ({address}) does not answer at all"
        )
    if faults:
        module.fail_json(
            msg="data network, from {} to: {}".format(module.params["address"], "; ".join(faults))
        )
    module.exit_json(changed=False, pairs=[name for name, _address, _size, _running in pings])


if __name__ == "__main__":
    main()
