from __future__ import annotations

import http.client

import pytest
from labcluster.controller import health


@pytest.mark.parametrize(("path", "status"), [("/healthz", 200), ("/readyz", 503), ("/other", 404)])
def test_each_check_answers_for_itself(path: str, status: int) -> None:
    server = health.serve({"/healthz": lambda: True, "/readyz": lambda: False}, port=0)
    try:
        connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=5)
        connection.request("GET", path)
        assert connection.getresponse().status == status
        connection.close()
    finally:
        server.shutdown()
        server.server_close()
