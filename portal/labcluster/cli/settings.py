"""labctl.toml: which portal this machine belongs to, and how its user proves who he is."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

from labcluster.errors import UsageError

DEFAULT_PATH = "/etc/labcluster/labctl.toml"
MUNGE = "munge"
TOKEN = "token"  # noqa: S105 - the word, not one


class Settings(NamedTuple):
    """The file's content; `default_image` is only shown, the portal decides."""

    portal: str
    cluster: str
    ca: str
    default_image: str | None = None
    #: "munge" on a login node, "token" elsewhere: by `labctl login`
    login: str = MUNGE


def user_folder() -> str:
    """Where a person's own settings are."""
    base = os.environ.get("XDG_CONFIG_HOME") or os.path.join(os.path.expanduser("~"), ".config")  # noqa: PTH111, PTH118
    return os.path.join(base, "labcluster")  # noqa: PTH118


def load() -> Settings:
    """The settings that LABCTL_CONFIG names, else the person's own, else those of this machine."""
    import tomllib  # not paid for by `labctl --help`

    own = os.path.join(user_folder(), "labctl.toml")  # noqa: PTH118 - pathlib costs an import
    path = os.environ.get("LABCTL_CONFIG") or (own if os.path.exists(own) else DEFAULT_PATH)  # noqa: PTH110
    try:
        with open(path, "rb") as file:  # noqa: PTH123
            data: dict[str, Any] = tomllib.load(file)
    except FileNotFoundError:
        raise UsageError(
            f"there is no {path} on this machine: use labctl on a login node,"
            " or labctl login --portal URL --ca FILE"
        ) from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{path} cannot be read ({error}): ask your administrator") from None
    missing = [key for key in ("portal", "cluster", "ca") if not isinstance(data.get(key), str)]
    unknown = sorted(set(data) - set(Settings._fields))
    if missing or unknown:
        fault = f"lacks {', '.join(missing)}" if missing else f"has unknown keys {', '.join(unknown)}"
        raise UsageError(f"{path} {fault}: ask your administrator")
    if not data["portal"].startswith("https://"):
        raise UsageError(f"{path}: portal must begin with https://: ask your administrator")
    if data.get("login", MUNGE) not in (MUNGE, TOKEN):
        raise UsageError(f"{path}: login must be {MUNGE} or {TOKEN}: ask your administrator")
    return Settings(**data)
