"""What the portal and the controller are told by their chart: one JSON file, checked when they start."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

DEFAULT_PATH = Path("/etc/labcluster/portal.json")
TOKENS_PATH = Path("/etc/labcluster/registry-tokens.json")


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Admin(_Section):
    """A site administrator: a local user of the nodes, not in LDAP."""

    name: str
    uid: int


class DatabaseSettings(_Section):
    """Where the run table is."""

    host: str
    port: int = 5432
    name: str = "portal"
    user: str = "portal"
    password_file: Path
    ca_file: Path
    pool_size: int = 10


class RegistrySettings(_Section):
    """The private registry, as images are named and as we reach it."""

    host: str = Field(description="host:port as it stands in image references")
    url: str = Field(description="where we reach it; in the cluster its Service")
    token_url: str = Field(description="its token service, likewise")
    username_file: Path
    password_file: Path
    ca_file: Path


class LdapSettings(_Section):
    """The directory, for the administrators' endpoints and for names of people without a project."""

    uri: str
    base_dn: str
    bind_dn: str
    password_file: Path
    ca_file: Path


class RegistryTokenSettings(_Section):
    """The registry's token service: a file of its own, read where `PortalSettings` is not."""

    registry: str = Field(description="host:port as it stands in image references")
    issuer: str = Field(description="as it stands in the registry's own configuration")
    key_file: Path
    certificate_file: Path
    cluster_password_file: Path = Field(description="of account `cluster`, which may do everything")
    node_password_file: Path = Field(description="of account `node`, which may pull everything")
    ldap: LdapSettings
    storage: Path = Field(description="the registry's storage, to read")
    kubeconfig: Path | None = Field(None, description="only outside a cluster")

    @classmethod
    def load(cls, path: Path | None = None) -> RegistryTokenSettings:
        """As `PortalSettings.load`."""
        file = path or Path(os.environ.get("LABCLUSTER_CONFIG", str(TOKENS_PATH)))
        return cls.model_validate_json(file.read_bytes())


class ClientIds(_Section):
    """Dex keeps one refresh token for a person and client: each place that logs in has its own."""

    login_node: str = "labctl"
    elsewhere: str = "labctl-laptop"
    portal: str = "portal"


class LoginSettings(_Section):
    """Dex: tokens of people who are not on the login node, and the browser's login."""

    issuer: str = Field(description="as tokens and browsers name it")
    url: str = Field(description="where we reach it; in the cluster its Service")
    ca_file: Path
    clients: ClientIds = ClientIds()
    secret_file: Path = Field(description="what proves the portal to Dex")
    session_key_file: Path = Field(description="what signs the sessions of browsers")
    session_hours: int = Field(12, description="how long a browser stays logged in")
    api_server: str = Field(description="the Kubernetes API, for `labctl kubeconfig`")
    api_ca_file: Path


class MlflowSettings(_Section):
    """The experiment record's server, which believes nobody but us."""

    url: str = Field(description="where we reach it; in the cluster its Service")
    ca_file: Path
    key_file: Path = Field(description="Ed25519 key in PEM that signs our word for who asks")


class RecordSettings(_Section):
    """How pods reach the portal with what they record, and how much of it goes to MLflow."""

    portal_url: str = Field(description="as pods reach it; in the cluster its Service")
    page_url: str | None = Field(None, description="as people's browsers reach it; none: the same")
    ca_file: Path = Field(description="the authority that its certificate is checked with")
    ca: str = Field("", description="its text, read when the settings are")
    file_mib: int = Field(default=1024, ge=0, description="the largest file that is uploaded")
    files_mib: int = Field(default=10240, ge=0, description="all files of a run together")
    log_mib: int = Field(default=64, ge=1, description="of a longer stdout.log the end is uploaded")


class MailSettings(_Section):
    """The site's mail server."""

    host: str
    port: int = 587
    security: Literal["starttls", "tls", "none"] = "starttls"
    sender: str = Field(description="the address that mails come from")
    domains: tuple[str, ...] = Field((), description="where mail may go: part after the @; none: nowhere")
    user: str | None = None
    password_file: Path | None = None
    ca_file: Path | None = Field(None, description="none: the authorities of the image")


class NoticeSettings(_Section):
    """Where notices of runs may go: members write addresses, the site says which are allowed."""

    webhook_hosts: tuple[str, ...] = Field(
        default=(), description="hosts, `*.suffix`, each with `:port` unless it is 443; none: no webhooks"
    )
    webhook_ca_file: Path | None = Field(default=None, description="none: the authorities of the image")
    mail: MailSettings | None = None


class JobSettings(_Section):
    """What every run's Job is made with."""

    runner_image: str = Field(description="the image with labrun, by digest")
    grace_seconds: int = 30
    warning_seconds: int = Field(
        30, description="how long before the end of --time a run is warned; at most a tenth of it"
    )
    node_loss_seconds: int = Field(
        300, description="how long a run stays with a node that does not answer before it is lost"
    )
    disk: str = Field("20Gi", description="how much of its node's own disk a pod may fill")
    gang_interface: str = Field(
        "eth0", description="the network interface in pods that NCCL and Gloo are told to use"
    )
    ttl_seconds: int = 3600
    record: RecordSettings | None = Field(None, description="none: runs are recorded on disk only")
    image_wait_seconds: int = Field(600, description="how long a run may wait for its image to be pulled")


class OutsideNetwork(_Section):
    """Addresses outside the cluster that pods of projects may open connections to."""

    cidr: str
    excluded: tuple[str, ...] = Field((), description="networks within it that stay closed")
    ports: tuple[int, ...] = Field((), description="TCP ports; none: all, and UDP too")


class RunLimits(_Section):
    """Bounds of a request that hold for every project."""

    max_time_seconds: int = 30 * 24 * 3600
    default_time_seconds: int | None = None
    min_memory: str = "64Mi"
    max_array: int = Field(default=5000, ge=1, description="members of one array, and runs of one file")


class PortalSettings(_Section):
    """The whole file."""

    cluster_name: str
    domain: str
    database: DatabaseSettings
    registry: RegistrySettings
    ldap: LdapSettings | None = None
    jobs: JobSettings
    limits: RunLimits = RunLimits()
    default_image: str
    admins: tuple[Admin, ...] = ()
    pod_egress: tuple[OutsideNetwork, ...] = ()
    storage_token_sha256: str | None = Field(
        None, description="SHA-256 of the token under which the file server reports; none: nobody may"
    )
    munge_socket: Path = Path("/run/munge/munge.socket")
    login: LoginSettings | None = None
    mlflow: MlflowSettings | None = None
    notices: NoticeSettings = NoticeSettings()
    public_page: bool = Field(False, description="whether runs are shown to who has not logged in")
    kubeconfig: Path | None = Field(None, description="only outside a cluster")

    @classmethod
    def load(cls, path: Path | None = None) -> PortalSettings:
        """From `path`, else from the file that LABCLUSTER_CONFIG names, else from the chart's place."""
        file = path or Path(os.environ.get("LABCLUSTER_CONFIG", str(DEFAULT_PATH)))
        settings = cls.model_validate_json(file.read_bytes())
        record = settings.jobs.record
        if record is None or record.ca:
            return settings
        # Every run's Job carries it, so that its pods need no file of the platform's.
        record = record.model_copy(update={"ca": record.ca_file.read_text()})
        return settings.model_copy(update={"jobs": settings.jobs.model_copy(update={"record": record})})
