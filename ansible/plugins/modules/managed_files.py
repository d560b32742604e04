#!/usr/bin/python
"""Ansible module: keep a set of small files, directories and links as described, in one call."""

from __future__ import annotations

DOCUMENTATION = r"""
module: managed_files
short_description: Keep a set of small files, directories and links as described, in one call
description:
  - Does for many paths what M(ansible.builtin.copy), M(ansible.builtin.file) and a validation do for one. A role that
    owns ten small files would otherwise start Python on every host ten times a run.
  - Files are replaced atomically; a file whose new content fails its validation leaves everything untouched.
options:
  files:
    description: What must be there, in this order.
    type: list
    elements: dict
    required: true
    suboptions:
      path:
        description: Absolute path.
        type: path
        required: true
      state:
        description: What the path must be.
        choices: [file, directory, link, absent]
        default: file
        type: str
      content:
        description: Whole text of a file.
        type: str
      target:
        description: Where a link leads.
        type: str
      mode:
        description: Permissions, quoted octal.
        type: str
      owner:
        description: Owner's name or number.
        type: str
        default: root
      group:
        description: Group's name or number.
        type: str
        default: root
      validate:
        description: Command with C(%s) for a temporary copy of the new content; a non-zero exit refuses all changes.
        type: str
author:
  - labcluster
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
"""

EXAMPLES = r"""
- name: Install the settings
  managed_files:
    files:
      - {path: /etc/example, state: directory, mode: "0755"}
      - {path: /etc/example/settings.conf, content: "a = 1\n", mode: "0644"}
"""

RETURN = r"""
paths:
  description: The paths that were changed (or would be, in check mode).
  returned: always
  type: list
  elements: str
"""

import grp  # noqa: E402
import os  # noqa: E402
import pwd  # noqa: E402
import shutil  # noqa: E402
import stat  # noqa: E402
import tempfile  # noqa: E402

from ansible.module_utils.basic import AnsibleModule  # noqa: E402

DEFAULT_MODES = {"file": "0644", "directory": "0755"}


def owner_ids(entry, missing_ok):
    """The numeric owner and group of an entry; None for names that check mode may meet before they exist."""
    ids = []
    for name, look_up in ((entry["owner"], pwd.getpwnam), (entry["group"], grp.getgrnam)):
        if name.isdigit():
            ids.append(int(name))
            continue
        try:
            ids.append(look_up(name)[2])
        except KeyError:
            if not missing_ok:
                raise ValueError("{}: no such user or group: {}".format(entry["path"], name)) from None
            ids.append(None)
    return ids


def read_text(path):
    """The text at path, or None when there is no regular file."""
    try:
        if not stat.S_ISREG(os.lstat(path).st_mode):
            return None
        with open(path, encoding="utf-8", errors="surrogateescape") as handle:
            return handle.read()
    except FileNotFoundError:
        return None


def same_attributes(path, mode, uid, gid):
    """Whether permissions and ownership are already as wanted."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return False
    return stat.S_IMODE(found.st_mode) == mode and found.st_uid == uid and found.st_gid == gid


def is_right(entry, uid, gid):
    """Whether the path already is what the entry describes."""
    path, state = entry["path"], entry["state"]
    if state == "absent":
        return not os.path.lexists(path)
    if state == "link":
        return os.path.islink(path) and os.readlink(path) == entry["target"]
    mode = int(entry["mode"], 8)
    if state == "directory":
        return os.path.isdir(path) and not os.path.islink(path) and same_attributes(path, mode, uid, gid)
    return read_text(path) == entry["content"] and same_attributes(path, mode, uid, gid)


def remove(path):
    """Remove whatever stands at path."""
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    elif os.path.lexists(path):
        os.unlink(path)


def apply(entry, uid, gid):
    """Make the path what the entry describes."""
    path, state = entry["path"], entry["state"]
    if state == "absent":
        remove(path)
        return
    if state == "directory":
        os.makedirs(path, exist_ok=True)
        os.chown(path, uid, gid)
        os.chmod(path, int(entry["mode"], 8))
        return
    folder = os.path.dirname(path)
    if state == "link":
        temporary = os.path.join(folder, ".managed-%d" % os.getpid())
        os.symlink(entry["target"], temporary)
        os.rename(temporary, path)
        return
    descriptor, temporary = tempfile.mkstemp(dir=folder, prefix=".managed-")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="surrogateescape") as handle:
            handle.write(entry["content"])
        os.chown(temporary, uid, gid)
        os.chmod(temporary, int(entry["mode"], 8))
        os.rename(temporary, path)
    finally:
        if os.path.exists(temporary):
            os.unlink(temporary)


def validate(module, entry):
    """Refuse a new content that its own program would refuse."""
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=module.tmpdir) as handle:
        handle.write(entry["content"])
        handle.flush()
        code, out, err = module.run_command(entry["validate"].replace("%s", handle.name))
    if code:
        module.fail_json(
            msg="{}: the new content is refused by `{}`: {}".format(
                entry["path"], entry["validate"], (err or out).strip()
            )
        )


def main():
    """Compare, validate all, then change."""
    options = {
        "path": {"type": "path", "required": True},
        "state": {"choices": ["file", "directory", "link", "absent"], "default": "file"},
        "content": {"type": "str"},
        "target": {"type": "str"},
        "mode": {"type": "str"},
        "owner": {"type": "str", "default": "root"},
        "group": {"type": "str", "default": "root"},
        "validate": {"type": "str"},
    }
    module = AnsibleModule(
        argument_spec={
            "files": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": options,
                "required_if": [("state", "file", ["content"]), ("state", "link", ["target"])],
            }
        },
        supports_check_mode=True,
    )
    try:
        wrong = []
        for entry in module.params["files"]:
            entry["mode"] = entry["mode"] or DEFAULT_MODES.get(entry["state"])
            uid, gid = owner_ids(entry, module.check_mode)
            if not is_right(entry, uid, gid):
                wrong.append((entry, uid, gid))
        diff = [
            {
                "before_header": entry["path"],
                "after_header": entry["path"],
                "before": read_text(entry["path"]) or "",
                "after": entry["content"],
            }
            for entry, _uid, _gid in wrong
            if entry["state"] == "file"
            and int(entry["mode"], 8) & 0o044  # never show what others may not read
        ]
        for entry, _uid, _gid in wrong:
            if entry["validate"] and entry["state"] == "file":
                validate(module, entry)
        if not module.check_mode:
            for entry, uid, gid in wrong:
                apply(entry, uid, gid)
    except (OSError, ValueError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=bool(wrong), paths=[entry["path"] for entry, _uid, _gid in wrong], diff=diff)


if __name__ == "__main__":
    main()
