"""munged, through libmunge."""

from __future__ import annotations

import ctypes
import ctypes.util
from functools import lru_cache
from pathlib import Path

from labcluster.errors import NotAuthenticatedError, UnreachableError
from labcluster.models.callers import Credential

_OPT_ENCODE_TIME, _OPT_SOCKET = 6, 8
_SNAFU, _NO_MEMORY, _SOCKET = 1, 5, 6
_NOT_THE_CALLERS_FAULT = (_SNAFU, _NO_MEMORY, _SOCKET)
_REASONS = {
    13: "it comes from a foreign realm",
    14: "it is not genuine, or made with another cluster's key",
    15: "it has expired: is this node's clock right?",
    16: "it comes from the future: is this node's clock right?",
    17: "it was used before",
    18: "it was made for another reader",
}


# Clocks of the login node and of the portal's node may differ by so much.
_SKEW_SECONDS = 2


class MungeDecoder:
    """Asks the munged behind `socket` about credentials. munged refuses what was used before.

    It knows that only since it was started, at the age of its socket: what was made before then may have been
    used before then, and is not accepted.
    """

    def __init__(self, socket: Path, skew_seconds: int = _SKEW_SECONDS) -> None:
        self._skew = skew_seconds
        self._socket = socket
        self._library = _library()

    def decode(self, credential: str) -> Credential:
        """The uid that made the credential, and what it says."""
        library = self._library
        context = library.munge_ctx_create()
        if not context:
            raise UnreachableError("munge has no memory")
        payload, length = ctypes.c_void_p(), ctypes.c_int()
        uid, gid = ctypes.c_uint32(), ctypes.c_uint32()
        try:
            library.munge_ctx_set(context, _OPT_SOCKET, ctypes.c_char_p(bytes(self._socket)))
            code = library.munge_decode(
                credential.encode("ascii", "replace"),
                context,
                ctypes.byref(payload),
                ctypes.byref(length),
                ctypes.byref(uid),
                ctypes.byref(gid),
            )
            if code in _NOT_THE_CALLERS_FAULT:
                said = library.munge_ctx_strerror(context) or library.munge_strerror(code)
                raise UnreachableError(f"the portal's munged does not answer: {said.decode()}")
            if code != 0:
                why = _REASONS.get(code) or library.munge_strerror(code).decode().lower()
                raise NotAuthenticatedError(f"the munge credential is refused: {why}")
            made = ctypes.c_long()
            library.munge_ctx_get(context, _OPT_ENCODE_TIME, ctypes.byref(made))
            if made.value <= self._started() + self._skew:
                raise UnreachableError(
                    "the portal's munged has just restarted: nothing was accepted, try again"
                )
            return Credential(uid.value, ctypes.string_at(payload, length.value) if payload else b"")
        finally:
            if payload:
                _free()(payload)
            library.munge_ctx_destroy(context)

    def _started(self) -> int:
        """When munged made its socket, in seconds of its host's clock."""
        try:
            return int(self._socket.stat().st_ctime)
        except OSError as error:
            raise UnreachableError(f"the portal's munged is gone: {error.strerror}") from error


@lru_cache(maxsize=1)
def _library() -> ctypes.CDLL:
    """libmunge, which releases Python's lock while it waits for munged."""
    name = "libmunge.so.2"
    try:
        library = ctypes.CDLL(name)
    except OSError as error:
        raise UnreachableError(f"{name} is not installed") from error
    library.munge_ctx_create.restype = ctypes.c_void_p
    library.munge_ctx_destroy.argtypes = [ctypes.c_void_p]
    library.munge_ctx_destroy.restype = None
    # The function is variadic: what stands before the dots is declared, the rest is passed as it is.
    library.munge_ctx_set.argtypes = [ctypes.c_void_p, ctypes.c_int]
    library.munge_ctx_get.argtypes = [ctypes.c_void_p, ctypes.c_int]
    library.munge_ctx_strerror.argtypes = [ctypes.c_void_p]
    library.munge_ctx_strerror.restype = ctypes.c_char_p
    library.munge_strerror.restype = ctypes.c_char_p
    library.munge_decode.argtypes = [
        ctypes.c_char_p,
        ctypes.c_void_p,
        ctypes.POINTER(ctypes.c_void_p),
        ctypes.POINTER(ctypes.c_int),
        ctypes.POINTER(ctypes.c_uint32),
        ctypes.POINTER(ctypes.c_uint32),
    ]
    return library


@lru_cache(maxsize=1)
def _free() -> ctypes._NamedFuncPointer:
    """The C library's free: libmunge leaves it to us."""
    function = ctypes.CDLL(None).free
    function.argtypes = [ctypes.c_void_p]
    function.restype = None
    return function
