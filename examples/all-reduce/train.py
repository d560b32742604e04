"""Train one model in several pods: every rank has its share of the data, and gradients are averaged.

Reads the variables that torch.distributed reads (MASTER_ADDR, MASTER_PORT, WORLD_SIZE, RANK), so that the
same submit starts a torch program. Here numpy and a socket do the work: rank 0 listens, the others send it
their gradients and get the mean back, which is an all-reduce through one root.

    labctl submit --nodes 2 -- python3 train.py
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import time
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path

import numpy as np

AUTHENTICATION = b"all-reduce"  # keeps accidents out; the cluster keeps other runs out


class Group:
    """All ranks of the run; the same calls must be made by each of them."""

    def __init__(self, address: str, port: int, rank: int, size: int, patience: float = 60.0) -> None:
        self.rank, self.size = rank, size
        self._peers: list[Connection] = []
        if rank == 0 and size > 1:
            with Listener(("", port), authkey=AUTHENTICATION) as listener:
                self._peers = [listener.accept() for _ in range(size - 1)]
        elif size > 1:
            self._peers = [_connect(address, port, patience)]

    def mean(self, values: np.ndarray) -> np.ndarray:
        """The mean of everybody's values, on every rank."""
        if self.rank == 0:
            total = values + sum(peer.recv() for peer in self._peers)
            for peer in self._peers:
                peer.send(total / self.size)
            return total / self.size
        root = self._peers[0]
        root.send(values)
        return root.recv()

    def gather(self, value: object) -> list[object]:
        """Everybody's value, on rank 0; elsewhere empty."""
        if self.rank == 0:
            return [value, *(peer.recv() for peer in self._peers)]
        self._peers[0].send(value)
        return []


def _connect(address: str, port: int, patience: float) -> Connection:
    """Rank 0 may start a moment after us."""
    deadline = time.monotonic() + patience
    while True:
        try:
            return Client((address, port), authkey=AUTHENTICATION)
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def data(seed: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Points of a plane with noise: the same on every rank, each takes every size-th of them."""
    generator = np.random.default_rng(seed)
    inputs = generator.normal(size=(count, 8))
    return inputs, inputs @ np.arange(1, 9) + 0.1 * generator.normal(size=count)


def main() -> None:
    """Train, and write what came out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rank, size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    address, port = os.environ.get("MASTER_ADDR", "localhost"), int(os.environ.get("MASTER_PORT", 29500))
    group = Group(address, port, rank, size)
    print(f"rank {rank} of {size} on {socket.gethostname()}", flush=True)

    inputs, targets = (part[rank::size] for part in data(options.seed, 1024))
    weights = np.zeros(8)
    for step in range(1, options.steps + 1):
        gradient = inputs.T @ (inputs @ weights - targets) / len(targets)
        weights -= 0.1 * group.mean(gradient)
        if step % 50 == 0:
            print(f"step {step}: loss {np.mean((inputs @ weights - targets) ** 2):.5f}", flush=True)

    ranks = group.gather({"rank": rank, "host": socket.gethostname(), "weights": weights.tolist()})
    if rank == 0:
        error = float(np.abs(weights - np.arange(1, 9)).max())
        result = {"size": size, "largest_error": error, "ranks": ranks}
        folder = Path(os.environ.get("LABCLUSTER_ARTIFACTS_DIR", "."))
        (folder / "result.json").write_text(json.dumps(result, indent=2) + "\n")
        print(f"largest error {error:.4f} with {size} ranks")


if __name__ == "__main__":
    main()
