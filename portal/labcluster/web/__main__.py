"""`python -m labcluster.web [migrate]`: bring the database up to date, or serve."""

from __future__ import annotations

import argparse
import logging
import time

import uvicorn

from labcluster.adapters.postgres import connect, migrate
from labcluster.errors import UnreachableError
from labcluster.models.settings import PortalSettings
from labcluster.web.app import create_app
from labcluster.web.wiring import build

log = logging.getLogger("labcluster.web")

# A database that starts beside us needs some seconds; after this the pod's restart takes over.
_MIGRATION_PATIENCE = 120.0


def _worth_a_line(record: logging.LogRecord) -> bool:
    """uvicorn says thrice of each WebSocket that it is there (the audit says more), and takes a refusal
    that is answered as a problem document for an unfinished handshake."""
    return not record.getMessage().endswith(
        ("[accepted]", "connection open", "connection closed", "without completing handshake.")
    )


def main() -> None:
    """Parse the arguments and act."""
    parser = argparse.ArgumentParser(prog="python -m labcluster.web", description=__doc__)
    parser.add_argument("verb", nargs="?", choices=["serve", "migrate"], default="serve")
    parser.add_argument("--host", default="0.0.0.0")  # noqa: S104 - a pod's only address
    parser.add_argument("--port", type=int, default=8443)
    parser.add_argument("--certificate", help="PEM file; without it plain HTTP, for a trial on loopback")
    parser.add_argument("--key", help="PEM file of the certificate's key")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s %(message)s")
    logging.getLogger("uvicorn.error").addFilter(_worth_a_line)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    logging.getLogger("urllib3").setLevel(logging.ERROR)
    settings = PortalSettings.load()
    if arguments.verb == "migrate":
        bring_up_to_date(settings)
        return
    uvicorn.run(
        create_app(build(settings)),
        host=arguments.host,
        port=arguments.port,
        ssl_certfile=arguments.certificate,
        ssl_keyfile=arguments.key,
        access_log=False,
        server_header=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=5,
        # WebSockets carry ssh, whose bytes are random; a suspended client may be silent for long.
        ws_per_message_deflate=False,
        ws_max_size=1 << 20,
        ws_ping_interval=20.0,
        ws_ping_timeout=120.0,
        log_config=None,
    )


def bring_up_to_date(settings: PortalSettings) -> None:
    """Run the migrations, waiting for a database that is still starting."""
    pool = connect(settings.database)
    end = time.monotonic() + _MIGRATION_PATIENCE
    while True:
        try:
            migrate(pool)
        except UnreachableError as error:
            if time.monotonic() > end:
                raise SystemExit(f"labcluster: {error}") from error
            log.info("waiting: %s", error)
            time.sleep(1)
        else:
            log.info("the database is up to date")
            return


if __name__ == "__main__":
    main()
