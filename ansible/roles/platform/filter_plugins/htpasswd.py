"""Ansible filter: one entry of an htpasswd file, the same one each time it is asked for."""

from __future__ import annotations

import base64
import ctypes
import ctypes.util
import hashlib

from ansible.errors import AnsibleFilterError

# The least that bcrypt knows. The registry computes it for every request; a slow hash defends passwords that
# can be guessed, and this one is made by a machine.
ROUNDS = 4


def htpasswd_entry(password: str, username: str, site: str) -> str:
    """`username:<bcrypt hash>`.

    The salt is made from site and password, of which the password is random enough: another salt each run
    would change the Secret, and restart the registry, each run. The C library's crypt is called directly:
    the filter password_hash needs passlib, and Python's own crypt module ends with 3.12.
    """
    digest = hashlib.sha256(f"{site}\0{username}\0{password}".encode()).digest()
    salt = base64.b64encode(digest[:16], altchars=b"./").decode().rstrip("=")
    library = ctypes.CDLL(ctypes.util.find_library("crypt") or "libcrypt.so.1")
    library.crypt.restype = ctypes.c_char_p
    hashed = library.crypt(password.encode(), f"$2b${ROUNDS:02}${salt}".encode())
    if hashed is None or not hashed.startswith(b"$2b$"):
        raise AnsibleFilterError("this machine's libcrypt does not know bcrypt (libxcrypt does)")
    return f"{username}:{hashed.decode()}"


class FilterModule:
    """Ansible's entry point."""

    def filters(self) -> dict[str, object]:
        return {"htpasswd_entry": htpasswd_entry}
