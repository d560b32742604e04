"""Runs in a pod of a project: listens, waits for the list of targets, tries them all, prints what answered.

usage: python3 - TARGETS_FILE < network_probe.py     (standard library only: any image has it)

First it prints `listening {…}`: its addresses. Then, once the file is there, `reached [names]`: the targets
that answered. A TCP target answered if the connection was made, a UDP one if anything came back. To 2049 it
speaks as an NFS client would, with the uid of somebody else in its credentials: whoever hears that trusts it.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import struct
import sys
import time

PORT = 8099
SECONDS = 3.0
AT_ONCE = 200


def rpc_null(uid: int) -> bytes:
    """An RPC call of NFS version 4, procedure NULL, under AUTH_SYS as `uid`, framed for TCP."""
    credentials = struct.pack(">II", 0, 4) + b"node" + struct.pack(">III", uid, uid, 0)
    call = struct.pack(">IIIIII", 7, 0, 2, 100003, 4, 0)
    call += struct.pack(">II", 1, len(credentials)) + credentials + struct.pack(">II", 0, 0)
    return struct.pack(">I", 0x80000000 | len(call)) + call


def own_addresses() -> list[str]:
    """IPv4 of the pod's interface, and its IPv6 link-local one: pods of one node share a bridge."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))
        found = [probe.getsockname()[0]]
    try:
        with open("/proc/net/if_inet6", encoding="ascii") as lines:  # noqa: PTH123 - one file, any Python
            for line in lines:
                digits, _, _, _, _, name = line.split()
                if digits.startswith("fe80"):
                    address = socket.inet_ntop(socket.AF_INET6, bytes.fromhex(digits))
                    found.append(f"{address}%{name}")
    except OSError:
        pass
    return found


async def listen() -> None:
    """Answer whoever comes, on TCP and UDP, IPv4 and IPv6."""

    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello")
        await writer.drain()
        writer.close()

    class Echo(asyncio.DatagramProtocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport = transport

        def datagram_received(self, data: bytes, address: tuple[str, int]) -> None:
            self.transport.sendto(data, address)  # type: ignore[attr-defined]

    loop = asyncio.get_running_loop()
    for host in ("0.0.0.0", "::"):
        try:
            await asyncio.start_server(greet, host, PORT)
            await loop.create_datagram_endpoint(Echo, local_addr=(host, PORT))
        except OSError:
            if host == "0.0.0.0":
                raise


async def reached(target: dict[str, object], gate: asyncio.Semaphore) -> bool:
    """Whether a target answers."""
    host, port = str(target["host"]), int(str(target["port"]))
    async with gate:
        try:
            async with asyncio.timeout(SECONDS):
                if target.get("udp"):
                    return await _udp(host, port)
                _, writer = await asyncio.open_connection(host, port)
                if port == 2049:
                    writer.write(rpc_null(20001))
                    await writer.drain()
                writer.close()
                return True
        except (OSError, TimeoutError):
            return False


async def _udp(host: str, port: int) -> bool:
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.setblocking(False)
        await loop.sock_connect(client, socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0][4])
        await loop.sock_sendall(client, rpc_null(20001)[4:] if port != 53 else DNS_QUESTION)
        return bool(await loop.sock_recv(client, 100))


# kubernetes.default.svc.cluster.local, type A.
DNS_QUESTION = struct.pack(">HHHHHH", 1, 0x0100, 1, 0, 0, 0) + b"".join(
    bytes([len(label)]) + label for label in (b"kubernetes", b"default", b"svc", b"cluster", b"local", b"")
) + struct.pack(">HH", 1, 1)  # fmt: skip


async def main(file: str) -> None:
    """Listen, wait, try."""
    await listen()
    print("listening", json.dumps(own_addresses()), flush=True)
    deadline = time.monotonic() + 120
    while not os.path.exists(file):  # noqa: PTH110
        if time.monotonic() > deadline:
            sys.exit(f"{file} did not come")
        await asyncio.sleep(0.2)
    with open(file, encoding="utf-8") as text:  # noqa: PTH123
        targets = json.load(text)
    gate = asyncio.Semaphore(AT_ONCE)
    answers = await asyncio.gather(*(reached(target, gate) for target in targets))
    print("reached", json.dumps([t["name"] for t, yes in zip(targets, answers) if yes]), flush=True)  # noqa: B905
    # The others may still want to try this one.
    await asyncio.sleep(2 * SECONDS + 2)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
