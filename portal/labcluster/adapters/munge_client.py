"""Credentials of munge, which prove the caller's uid to the portal: the client's side, by libmunge.

libmunge is called and not the `munge` program: starting a program costs more than all the rest.
"""

from __future__ import annotations

import ctypes

from labcluster.errors import UnreachableError

_LIBRARY = "libmunge.so.2"


def encode(payload: bytes) -> str:
    """A credential of the calling process's uid that carries a payload; it is good for one use."""
    try:
        library = ctypes.CDLL(_LIBRARY)
    except OSError:
        raise UnreachableError(f"{_LIBRARY} is not on this machine: use labctl on a login node") from None
    library.munge_strerror.restype = ctypes.c_char_p
    credential = ctypes.c_char_p()
    status = library.munge_encode(ctypes.byref(credential), None, payload, len(payload))
    if status:
        reason = library.munge_strerror(status).decode()
        raise UnreachableError(
            f"munge gives no credential on this machine ({reason}): ask your administrator to start munged"
        )
    text = (credential.value or b"").decode()
    ctypes.CDLL(None).free(credential)
    return text
