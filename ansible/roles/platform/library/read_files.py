#!/usr/bin/python
"""Ansible module: read several small files of a host in one call."""

from __future__ import annotations

DOCUMENTATION = r"""
module: read_files
short_description: Read several small files of a host in one call
description:
  - Does for many files what M(ansible.builtin.slurp) does for one, and says all that are missing at once.
options:
  folder:
    description: Where the files are.
    type: path
    required: true
  names:
    description: Names of the files in it.
    type: list
    elements: str
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
- name: Read a certificate and its key
  read_files:
    folder: /etc/labcluster/pki
    names: [portal.crt, portal.key]
  no_log: true
  register: __example_pki
"""

RETURN = r"""
contents:
  description: Text of each file, by name.
  returned: success
  type: dict
"""

from pathlib import Path  # noqa: E402

from ansible.module_utils.basic import AnsibleModule  # noqa: E402


def main():
    module = AnsibleModule(
        argument_spec={
            "folder": {"type": "path", "required": True},
            "names": {"type": "list", "elements": "str", "required": True},
        },
        supports_check_mode=True,
    )
    folder = Path(module.params["folder"])
    missing = [name for name in module.params["names"] if not (folder / name).is_file()]
    if missing:
        module.fail_json(msg=f"{folder} lacks {', '.join(missing)}: the phase base makes them")
    module.exit_json(contents={name: (folder / name).read_text() for name in module.params["names"]})


if __name__ == "__main__":
    main()
