"""GET /healthz and /readyz for the kubelet."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PORT = 8081


def serve(checks: Mapping[str, Callable[[], bool]], port: int = PORT) -> ThreadingHTTPServer:
    """Answer 200 or 503 for each path in `checks`, in a thread; the caller shuts it down."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            check = checks.get(self.path)
            status = 404 if check is None else 200 if check() else 503
            body = {200: b"ok\n", 404: b"not found\n", 503: b"not now\n"}[status]
            self.send_response(status)
            self.send_header("Content-Type", "text/plain")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Probes are no news."""

    server = ThreadingHTTPServer(("0.0.0.0", port), Handler)  # noqa: S104 - the kubelet asks the pod's address
    threading.Thread(target=server.serve_forever, name="health", daemon=True).start()
    return server
