"""`python -m labcluster_mlflow [migrate]`: bring the database up to date, or serve."""

from __future__ import annotations

import argparse
import os
import secrets
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

_BASIC_AUTH = """\
[mlflow]
default_permission = NO_PERMISSIONS
grant_default_workspace_access = false
authorization_function = labcluster_mlflow.accounts:authorize
database_uri = {database}
"""
# A database that starts beside us needs some seconds; after this the pod's restart takes over.
_PATIENCE_SECONDS = 120.0


def main() -> None:
    """Parse the arguments and act."""
    parser = argparse.ArgumentParser(prog="python -m labcluster_mlflow", description=__doc__)
    parser.add_argument("verb", nargs="?", choices=["serve", "migrate"], default="serve")
    parser.add_argument("--database", required=True, help="postgresql+psycopg2://USER@HOST/NAME?sslmode=…")
    parser.add_argument("--password-file", type=Path, help="the password that goes into it")
    parser.add_argument("--artifacts", type=Path, help="folder of the artifacts")
    parser.add_argument("--public-key", type=Path, help="PEM file of the portal's public key")
    parser.add_argument("--host", default="0.0.0.0")  # noqa: S104 - a pod's only address
    parser.add_argument("--port", type=int, default=5000)
    parser.add_argument("--certificate", help="PEM file; without it plain HTTP, for a trial on loopback")
    parser.add_argument("--key", help="PEM file of the certificate's key")
    parser.add_argument("--state", type=Path, default=Path("/tmp"), help="folder for a file with settings")  # noqa: S108 - the pod's own
    arguments = parser.parse_args()
    database = _with_password(arguments.database, arguments.password_file)
    if arguments.verb == "migrate":
        migrate(database)
        return
    configure(database, arguments.artifacts, arguments.state)
    serve(arguments)


def _with_password(url: str, file: Path | None) -> str:
    """SQLAlchemy's URL with a password that stands in no process list."""
    if file is None:
        return url
    scheme, _, rest = url.partition("://")
    user, _, place = rest.partition("@")
    return f"{scheme}://{user}:{quote(file.read_text().strip(), safe='')}@{place}"


def configure(database: str, artifacts: Path, state: Path) -> None:
    """Say by environment what `mlflow server` would; MLflow reads it when it is imported."""
    settings = state / "basic_auth.ini"
    settings.touch(mode=0o600)
    # A percent sign begins a variable there.
    settings.write_text(_BASIC_AUTH.format(database=database.replace("%", "%%")))
    os.environ.update(
        {
            "_MLFLOW_SGI_NAME": "uvicorn",
            "_MLFLOW_SERVER_FILE_STORE": database,
            "_MLFLOW_SERVER_REGISTRY_STORE": database,
            "_MLFLOW_SERVER_ARTIFACT_ROOT": "mlflow-artifacts:/",
            "_MLFLOW_SERVER_ARTIFACT_DESTINATION": str(artifacts),
            "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
            "_MLFLOW_IN_JOB_EXECUTOR": "false",
            "MLFLOW_ENABLE_WORKSPACES": "true",
            "MLFLOW_WORKSPACE_STORE_URI": database,
            "MLFLOW_AUTH_CONFIG_PATH": str(settings),
            "MLFLOW_BASIC_AUTH_FAIL_CLOSED": "true",
            "MLFLOW_SERVER_ENABLE_GRAPHQL_AUTH": "true",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_SERVER_ENABLE_CUSTOM_SCORERS": "false",
            "MLFLOW_ENABLE_AI_GATEWAY": "false",
            "MLFLOW_RBAC_SEED_DEFAULT_ROLES": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_SERVER_X_FRAME_OPTIONS": "DENY",
            # An administrator must exist; the door lets nobody in under this name.
            "MLFLOW_AUTH_ADMIN_USERNAME": "labcluster:administrator",
            "MLFLOW_AUTH_ADMIN_PASSWORD": secrets.token_urlsafe(32),
            # Signs cookies, of which none passes the door.
            "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_urlsafe(32),
        }
    )


def migrate(database: str) -> None:
    """Make or upgrade MLflow's tables; those of its accounts the server looks after when it starts."""
    from mlflow.store.db import utils
    from sqlalchemy import create_engine
    from sqlalchemy.exc import OperationalError

    engine = create_engine(database)
    end = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            engine.connect().close()
            break
        except OperationalError:
            if time.monotonic() > end:
                raise
            time.sleep(1)
    if utils._all_tables_exist(engine):
        utils._upgrade_db(engine)
    else:
        utils._initialize_tables(engine)


def build(public_key: Path) -> Any:
    """The server as an ASGI application; `configure` comes before."""
    import uvicorn  # noqa: F401 - MLflow looks for it to know how it is run
    from mlflow.server.auth import create_app

    from labcluster_mlflow.accounts import Accounts
    from labcluster_mlflow.assertions import Assertions
    from labcluster_mlflow.door import Door
    from labcluster_mlflow.routes import Routes

    return Door(create_app(), Assertions(public_key), Accounts(), Routes.load())


def serve(arguments: argparse.Namespace) -> None:
    """Run the server until it is told to stop."""
    import uvicorn

    uvicorn.run(
        build(arguments.public_key),
        host=arguments.host,
        port=arguments.port,
        ssl_certfile=arguments.certificate,
        ssl_keyfile=arguments.key,
        access_log=False,
        server_header=False,
        ws="none",
        timeout_keep_alive=75,
        timeout_graceful_shutdown=10,
    )


if __name__ == "__main__":
    main()
