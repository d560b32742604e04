"""Credentials of munge, which prove the caller's uid to the portal: the client's side, by libmunge.

libmunge is called and not the `munge` program: starting a program costs more than all the rest.
"""

from __future__ import annotations

import ctypes
from pathlib import Path

from labcluster.errors import UnreachableError
from labcluster.models.callers import CREDENTIAL_SECONDS, PORTAL_UID

_LIBRARY = "libmunge.so.2"
_OPT_TTL, _OPT_SOCKET, _OPT_UID_RESTRICTION = 4, 8, 9


def encode(payload: bytes, socket: Path | None = None) -> str:
    """A credential of the calling process's uid that carries a payload. It is good for one use, within a
    minute, and for the portal alone. `socket` is munged's, if it is not at its usual place."""
    try:
        library = ctypes.CDLL(_LIBRARY)
    except OSError:
        raise UnreachableError(f"{_LIBRARY} is not on this machine: use labctl on a login node") from None
    library.munge_strerror.restype = ctypes.c_char_p
    library.munge_ctx_create.restype = ctypes.c_void_p
    library.munge_ctx_destroy.argtypes = [ctypes.c_void_p]
    library.munge_ctx_destroy.restype = None
    # The function is variadic: what stands before the dots is declared, the rest is passed as it is.
    library.munge_ctx_set.argtypes = [ctypes.c_void_p, ctypes.c_int]
    library.munge_encode.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int]
    credential = ctypes.c_char_p()
    context = library.munge_ctx_create()
    try:
        if socket is not None:
            library.munge_ctx_set(context, _OPT_SOCKET, ctypes.c_char_p(str(socket).encode()))
        library.munge_ctx_set(context, _OPT_TTL, ctypes.c_int(CREDENTIAL_SECONDS))
        library.munge_ctx_set(context, _OPT_UID_RESTRICTION, ctypes.c_uint32(PORTAL_UID))
        status = library.munge_encode(ctypes.byref(credential), context, payload, len(payload))
    finally:
        library.munge_ctx_destroy(context)
    if status:
        reason = library.munge_strerror(status).decode()
        raise UnreachableError(
            f"munge gives no credential on this machine ({reason}): ask your administrator to start munged"
        )
    text = (credential.value or b"").decode()
    ctypes.CDLL(None).free(credential)
    return text
