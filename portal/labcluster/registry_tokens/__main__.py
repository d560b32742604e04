"""`python -m labcluster.registry_tokens`: serve tokens for the registry."""

from __future__ import annotations

import argparse
import logging

import uvicorn

from labcluster.models.settings import RegistryTokenSettings
from labcluster.registry_tokens.app import create_app
from labcluster.registry_tokens.wiring import build


def main() -> None:
    """Parse the arguments and serve."""
    parser = argparse.ArgumentParser(prog="python -m labcluster.registry_tokens", description=__doc__)
    parser.add_argument("--host", default="0.0.0.0")  # noqa: S104 - a pod's only address
    parser.add_argument("--port", type=int, default=5001)
    parser.add_argument("--certificate", required=True, help="PEM file")
    parser.add_argument("--key", required=True, help="PEM file of the certificate's key")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s %(message)s")
    logging.getLogger("urllib3").setLevel(logging.ERROR)
    uvicorn.run(
        create_app(build(RegistryTokenSettings.load())),
        host=arguments.host,
        port=arguments.port,
        ssl_certfile=arguments.certificate,
        ssl_keyfile=arguments.key,
        access_log=False,
        server_header=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=5,
        log_config=None,
    )


if __name__ == "__main__":
    main()
