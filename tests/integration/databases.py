"""A PostgreSQL of our own with the portal's tables, one for all tests that empty what they use."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import sqlalchemy as sa
from labcluster.adapters import postgres
from postgresql_server import running


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """A server of our own."""
    with running() as place:
        yield f"postgresql+psycopg://{place}"


@pytest.fixture(scope="session")
def pool(server: str) -> Iterator[sa.Engine]:
    """Connections to it, after several have migrated it at once."""
    pool = postgres.engine(server, {}, 8)
    together = [threading.Thread(target=postgres.migrate, args=(pool,)) for _ in range(3)]
    for thread in together:
        thread.start()
    for thread in together:
        thread.join()
    yield pool
    pool.dispose()
