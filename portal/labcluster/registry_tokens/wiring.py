"""What the token service is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from labcluster.adapters.kube import KubeApi
from labcluster.adapters.ldap import LdapDirectory
from labcluster.adapters.projects import KubeProjects
from labcluster.adapters.registry_signing import TokenSigner
from labcluster.adapters.registry_storage import RegistryStorage
from labcluster.models.registry import GIB, Account
from labcluster.models.settings import RegistryTokenSettings
from labcluster.services.members import CachedDirectory
from labcluster.services.registry_tokens import RegistryQuotas, TokenService


@dataclass(frozen=True)
class Parts:
    """All that the routes use."""

    service: TokenService
    storage: RegistryStorage


def build(settings: RegistryTokenSettings) -> Parts:
    """The service over the real directory, storage and apiserver; none of them is asked yet."""
    given = settings.ldap
    directory = LdapDirectory(given.uri, given.base_dn, given.bind_dn, given.password_file, given.ca_file)
    storage = RegistryStorage(settings.storage)

    projects = KubeProjects(KubeApi.load(settings.kubeconfig))

    def quotas() -> Mapping[str, int]:
        return {p.name: p.spec.registry_gib * GIB for p in projects.list() if p.spec.registry_gib}

    return Parts(
        service=TokenService(
            service=settings.registry,
            issuer=settings.issuer,
            accounts={
                "cluster": (Account("cluster", "cluster"), _secret(settings.cluster_password_file)),
                "node": (Account("node", "node"), _secret(settings.node_password_file)),
            },
            signer=TokenSigner(settings.key_file, settings.certificate_file),
            people=CachedDirectory(directory),
            has_password=directory.has_password,
            usage=RegistryQuotas(storage.used, quotas),
        ),
        storage=storage,
    )


def _secret(file: Path) -> str:
    secret = file.read_text().strip()
    if not secret:  # would be everybody's
        raise SystemExit(f"labcluster: {file} is empty")
    return secret
