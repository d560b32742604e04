"""The site file: what `inventory/<site>/group_vars/all/cluster.yml` and the hosts beside it may say.

One source for `labctl validate`, the reference documentation and the tests. The models check each
value by itself; `services/site.py` checks them against one another and against the host list.
"""

from __future__ import annotations

import base64
import binascii
import re
from ipaddress import IPv4Address, IPv4Network
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr

#: Groups a site has; which functions its machines serve (design §1).
GROUPS: dict[str, str] = {
    "management": "control plane and platform services",
    "kube_control_plane": "members of the control plane: the management hosts",
    "gpu_node": "run the jobs",
    "login": "people ssh here",
    "file_server": "exports /lab on the data network",
    "backup": "keeps the backups",
}

#: Uids of local administrators: above the distribution's own, below the members' (20000).
ADMIN_UIDS = range(10000, 20000)
#: A secret shorter than this can be guessed.
MIN_SECRET_LENGTH = 16
# What the 32 bytes of an Ed25519 key have before them in PKCS #8 (RFC 8410).
_ED25519_PKCS8 = bytes.fromhex("302e020100300506032b657004220420")


def _dns_label(value: str) -> str:
    if not re.fullmatch(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?", value):
        raise ValueError(
            "must be a DNS label: lower-case letters, digits and hyphens, beginning with a letter"
        )
    return value


def _dns_name(value: str) -> str:
    labels = value.split(".")
    if len(labels) < 2:
        raise ValueError("must be a DNS name of two labels or more, for example lab.internal")
    for label in labels:
        _dns_label(label)
    return value


def _user_name(value: str) -> str:
    if not re.fullmatch(r"[a-z][a-z0-9_-]{0,30}", value):
        raise ValueError(
            "must be a POSIX user name: a lower-case letter, then letters, digits, _ or -, at most 31"
        )
    if value in {"root", "daemon", "nobody", "munge", "sssd"}:
        raise ValueError("is a system account: choose another name")
    return value


def _ssh_key(value: str) -> str:
    kind, _, rest = value.strip().partition(" ")
    blob = rest.split(" ")[0]
    try:
        decoded = base64.b64decode(blob, validate=True)
    except binascii.Error:
        decoded = b""
    if not kind.startswith(("ssh-", "ecdsa-", "sk-")) or kind.encode() not in decoded[: 4 + len(kind)]:
        raise ValueError("is not an OpenSSH public key: paste one line of a .pub file")
    return value.strip()


def _http_url(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("must be a URL beginning with http:// or https://")
    return value


def _distinguished_name(value: str) -> str:
    if not re.fullmatch(r"dc=[a-z0-9-]+(,dc=[a-z0-9-]+)*", value):
        raise ValueError("must be made of dc= parts, for example dc=lab,dc=internal")
    return value


def _secret(value: SecretStr) -> SecretStr:
    text = value.get_secret_value()
    if "change-me" in text.lower() or "changeme" in text.lower():
        raise ValueError("is still the example's placeholder: write a secret of your own with ansible-vault")
    if len(text) < MIN_SECRET_LENGTH:
        raise ValueError(
            f"is shorter than {MIN_SECRET_LENGTH} characters: make one with `openssl rand -hex 24`"
        )
    return value


def _base64_of(size: int) -> AfterValidator:
    def check(value: SecretStr) -> SecretStr:
        try:
            length = len(base64.b64decode(value.get_secret_value(), validate=True))
        except binascii.Error:
            raise ValueError(f"is not base64: make one with `openssl rand -base64 -A {size}`") from None
        if length != size:
            raise ValueError(f"is {length} bytes, not {size}: make one with `openssl rand -base64 -A {size}`")
        return value

    return AfterValidator(check)


def _ed25519(value: SecretStr) -> SecretStr:
    try:
        found = base64.b64decode(value.get_secret_value(), validate=True)
    except binascii.Error:
        found = b""
    if len(found) != len(_ED25519_PKCS8) + 32 or not found.startswith(_ED25519_PKCS8):
        raise ValueError(
            "is no Ed25519 key in base64: make one with"
            " `openssl genpkey -algorithm ed25519 -outform DER | openssl base64 -A`"
        )
    return value


def _webhook_host(value: str) -> str:
    if not re.fullmatch(r"(\*\.)?[a-z0-9][a-z0-9.-]*(:[0-9]{1,5})?", value):
        raise ValueError("must be a host, or *.suffix, with :port unless it is 443: hooks.slack.com")
    return value


def _mail_address(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9._%+-]{1,64}@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+", value):
        raise ValueError("must be an address, for example cluster@example.org")
    return value


DnsLabel = Annotated[str, AfterValidator(_dns_label)]
DnsName = Annotated[str, AfterValidator(_dns_name)]
UserName = Annotated[str, AfterValidator(_user_name)]
SshKey = Annotated[str, AfterValidator(_ssh_key)]
WebhookHost = Annotated[str, AfterValidator(_webhook_host)]
MailAddress = Annotated[str, AfterValidator(_mail_address)]
HttpUrl = Annotated[str, AfterValidator(_http_url)]
Secret = Annotated[SecretStr, AfterValidator(_secret)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Admin(_Model):
    """A local administrator of every machine, who may also use `labctl admin`."""

    name: UserName = Field(description="POSIX user name")
    uid: int = Field(
        ge=ADMIN_UIDS.start, lt=ADMIN_UIDS.stop, description="uid, 10000 to 19999: never a directory member's"
    )
    ssh_keys: list[SshKey] = Field(min_length=1, description="public keys that may log in, one line each")


class PackageMirror(_Model):
    """Debian mirrors that the nodes use instead of their own sources."""

    debian: HttpUrl | None = Field(default=None, description="mirror of the Debian archive")
    debian_security: HttpUrl | None = Field(default=None, description="mirror of Debian security updates")


class Proxy(_Model):
    """The proxy through which nodes reach package mirrors."""

    http: HttpUrl | None = Field(default=None, description="proxy for http")
    https: HttpUrl | None = Field(default=None, description="proxy for https")
    no_proxy: list[str] = Field(default=[], description="names, addresses and networks reached directly")


class PodEgressNetwork(_Model):
    """A network of the site's own that pods may open connections to."""

    network: IPv4Network = Field(description="addresses, e.g. of a package mirror: 10.20.9.5/32")
    ports: list[Annotated[int, Field(ge=1, le=65535)]] = Field(min_length=1, description="TCP ports there")


class MailServer(_Model):
    """The site's mail server, to which notices are handed."""

    host: DnsName = Field(description="its name, as its certificate has it")
    port: int = Field(default=587, ge=1, le=65535, description="TCP port")
    security: Literal["starttls", "tls", "none"] = Field(
        default="starttls", description="how it is spoken to"
    )
    sender: MailAddress = Field(description="the address that notices come from")
    domains: list[DnsName] = Field(min_length=1, description="where mail may go: what stands after the @")
    user: str | None = Field(
        default=None,
        min_length=1,
        description="account there, with cluster_secrets.mail_password; without: it asks for none",
    )


class Notices(_Model):
    """Where notices of runs may go: members write addresses, nothing leaves but to these."""

    webhook_hosts: list[WebhookHost] = Field(
        default=[], description="hosts, or *.suffix, each with :port unless it is 443"
    )
    mail: MailServer | None = Field(default=None, description="without: no mail")
    networks: list[PodEgressNetwork] = Field(
        default=[], description="what the network lets the portal's pods reach for this"
    )


class Secrets(_Model):
    """Passwords and keys of the site: generated in the lab, ansible-vault on a real site."""

    ldap_admin_password: Secret = Field(description="directory administrator")
    ldap_portal_password: Secret = Field(description="the portal's account in the directory (writes members)")
    ldap_controller_password: Secret = Field(description="the controller's account in the directory (reads)")
    ldap_sssd_password: Secret = Field(description="the machines' account in the directory (reads)")
    postgresql_password: Secret = Field(description="PostgreSQL administrator")
    postgresql_portal_password: Secret = Field(description="the portal's PostgreSQL role")
    registry_password: Secret = Field(description="the cluster's credential at the registry")
    ldap_dex_password: Secret = Field(description="Dex in the directory (reads)")
    ldap_registry_password: Secret = Field(description="the registry's token service in the directory")
    dex_portal_secret: Secret = Field(description="the portal as a client of Dex")
    portal_session_key: Secret = Field(description="what the portal signs the cookies of browsers with")
    registry_node_password: Secret = Field(description="the nodes' credential at the registry (pulls)")
    postgresql_mlflow_password: Secret = Field(description="MLflow's PostgreSQL role")
    mlflow_signing_key: Annotated[SecretStr, AfterValidator(_ed25519)] = Field(
        description="what the portal signs its word to MLflow with: an Ed25519 key, PKCS #8, in base64"
    )
    mail_password: SecretStr | None = Field(
        default=None, min_length=1, description="of the account cluster_notices.mail.user; only with one"
    )
    munge_key: Annotated[SecretStr, _base64_of(128)] = Field(description="munge key, 128 bytes in base64")
    etcd_encryption_key: Annotated[SecretStr, _base64_of(32)] = Field(
        description="key that encrypts Kubernetes Secrets at rest, 32 bytes in base64"
    )


class Site(_Model):
    """The `cluster_*` variables of a site, without the prefix."""

    name: DnsLabel = Field(description="name of the cluster, a DNS label")
    domain: DnsName = Field(description="DNS suffix: portal.<domain>, registry.<domain>, <host>.<domain>")
    timezone: str = Field(default="Etc/UTC", description="time zone of every node")
    management_network: IPv4Network = Field(description="ssh, Kubernetes API, portal, LDAP, registry")
    data_network: IPv4Network = Field(description="NFS only, on its own interface")
    pod_network: IPv4Network = Field(description="addresses of pods, a /24 a node")
    service_network: IPv4Network = Field(description="addresses of Kubernetes services")
    admin_networks: list[IPv4Network] = Field(
        min_length=1, description="may open ssh to every node, the Kubernetes API and the portal"
    )
    user_networks: list[IPv4Network] = Field(
        min_length=1, description="may open ssh to the login node, portal, login page and Kubernetes API"
    )
    pod_egress: Literal["internet", "cluster"] = Field(
        default="internet",
        description="where pods may open connections to besides the cluster: the internet, or nowhere;"
        " private addresses and the site's own networks are closed in both",
    )
    pod_egress_networks: list[PodEgressNetwork] = Field(
        default=[], description="what pods may reach of the site's own networks all the same"
    )
    notices: Notices = Field(default=Notices(), description="empty: notices stay in the cluster")
    admins: list[Admin] = Field(min_length=1, description="local administrators of every node")
    package_mirror: PackageMirror = Field(
        default=PackageMirror(), description="empty: the nodes' own sources stay"
    )
    proxy: Proxy = Field(default=Proxy(), description="empty: no proxy")
    extra_ca_files: list[str] = Field(
        default=[],
        description="PEM files on the administrator's machine that every node trusts, e.g. a TLS proxy's",
    )
    ntp_servers: list[str] = Field(default=[], description="empty: Debian's pool")
    time_sync: bool = Field(
        default=True, description="off only where nodes share their host's clock (the lab)"
    )
    ldap_base_dn: Annotated[str, AfterValidator(_distinguished_name)] = Field(
        description="root of the directory"
    )
    storage_kind: Literal["nfs", "shared_volume"] = Field(
        "nfs", description="how nodes get /lab; shared_volume: lab"
    )
    gpu_source: Literal["debian", "nvidia", "simulated"] = Field(
        default="debian", description="where the GPU driver comes from; simulated: lab"
    )
    kernel_allowances: bool = Field(default=False, description="lab only: containers as nodes, cgroup v1")
    store_dir: str | None = Field(default=None, description="artifact store on the administrator's machine")
    secrets: Secrets | None = Field(
        default=None, description="see group_vars/all/secrets.yml; ansible-vault on a site"
    )


class Host(_Model):
    """One machine of `hosts.yml`: what the site file is checked against."""

    ansible_host: IPv4Address = Field(description="address on the management network")
    data_nic_interface: str | None = Field(default=None, description="interface of the data network")
    data_nic_address: IPv4Address | None = Field(default=None, description="address on the data network")
    data_nic_mtu: int | None = Field(
        default=None, ge=1280, le=9216, description="MTU of the data network, bytes"
    )
    gpu_count: int | None = Field(default=None, ge=1, le=16, description="physical GPUs of a gpu_node")
