"""The cluster's own requests to MLflow: what they say, and what its answers become."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from labcluster.adapters.mlflow import AssertionSigner, MlflowApi
from labcluster.errors import LabclusterError, NotFoundError, UnreachableError, UsageError
from labcluster.models.settings import MlflowSettings
from labcluster.services.experiments import CONTROLLER
from labcluster_mlflow.assertions import Assertions, Passage
from stand_in_mlflow import StandInMlflow, serving

PEM = serialization.Encoding.PEM


@pytest.fixture
def mlflow() -> StandInMlflow:
    return StandInMlflow()


@pytest.fixture
def settings(mlflow: StandInMlflow, tmp_path: Path) -> Iterator[MlflowSettings]:
    key = Ed25519PrivateKey.generate()
    file = tmp_path / "key.pem"
    file.write_bytes(key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    (tmp_path / "public.pem").write_bytes(
        key.public_key().public_bytes(PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    with serving(mlflow) as address:
        yield MlflowSettings(url=f"http://{address}", ca_file=tmp_path, key_file=file)


@pytest.fixture
def api(settings: MlflowSettings) -> Iterator[MlflowApi]:
    api = MlflowApi(settings, AssertionSigner(settings.key_file), CONTROLLER)
    yield api
    api.close()


def test_controller_is_somebody_whom_no_person_can_be(
    api: MlflowApi, mlflow: StandInMlflow, settings: MlflowSettings
) -> None:
    api.post("vision", "runs/update", {"run_id": "1", "status": "KILLED"})
    api.get("speech", "runs/get", {"run_id": "1"})
    words = [dict(said["headers"])["x-lab-assertion"] for said in mlflow.asked]
    reader = Assertions(settings.key_file.with_name("public.pem"))
    assert [reader.read(word) for word in words] == [
        Passage("labcluster:controller", "vision"),
        Passage("labcluster:controller", "speech"),
    ]
    assert [(said["method"], said["path"], said["query"]) for said in mlflow.asked] == [
        ("POST", "/api/2.0/mlflow/runs/update", ""),
        ("GET", "/api/2.0/mlflow/runs/get", "run_id=1"),
    ]


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (404, "RESOURCE_DOES_NOT_EXIST", NotFoundError),
        (400, "RESOURCE_DOES_NOT_EXIST", NotFoundError),
        (400, "INVALID_PARAMETER_VALUE", UsageError),
        (403, "PERMISSION_DENIED", UsageError),
        (429, "", UnreachableError),
        (503, "", UnreachableError),
    ],
)
def test_refusals_become_errors_of_ours(
    settings: MlflowSettings, status: int, code: str, kind: type[LabclusterError]
) -> None:
    async def refuse(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            body = json.dumps({"error_code": code, "message": "no such run"}).encode() if code else b"<html>"
            await send({"type": "http.response.start", "status": status, "headers": []})
            await send({"type": "http.response.body", "body": body})

    with serving(refuse) as address:
        there = settings.model_copy(update={"url": f"http://{address}"})
        api = MlflowApi(there, AssertionSigner(settings.key_file), CONTROLLER)
        with pytest.raises(kind) as refused:
            api.get("vision", "runs/get")
        api.close()
    assert type(refused.value) is kind
    assert ("no such run" in refused.value.detail) is bool(code)


def test_server_that_is_away_is_to_be_asked_again(settings: MlflowSettings) -> None:
    away = settings.model_copy(update={"url": "http://127.0.0.1:1"})
    api = MlflowApi(away, AssertionSigner(settings.key_file), CONTROLLER)
    with pytest.raises(UnreachableError):
        api.get("vision", "runs/get")
    api.close()
