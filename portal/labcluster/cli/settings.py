"""/etc/labcluster/labctl.toml: which portal this machine belongs to."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

from labcluster.errors import UsageError

DEFAULT_PATH = "/etc/labcluster/labctl.toml"


class Settings(NamedTuple):
    """The file's content; `default_image` is only shown, the portal decides."""

    portal: str
    cluster: str
    ca: str
    default_image: str | None = None


def load() -> Settings:
    """The settings of this machine, or of the file that LABCTL_CONFIG names."""
    import tomllib  # not paid for by `labctl --help`

    path = os.environ.get("LABCTL_CONFIG") or DEFAULT_PATH
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - pathlib costs an import
            data: dict[str, Any] = tomllib.load(file)
    except FileNotFoundError:
        raise UsageError(f"there is no {path} on this machine: use labctl on a login node") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{path} cannot be read ({error}): ask your administrator") from None
    missing = [key for key in ("portal", "cluster", "ca") if not isinstance(data.get(key), str)]
    unknown = sorted(set(data) - set(Settings._fields))
    if missing or unknown:
        fault = f"lacks {', '.join(missing)}" if missing else f"has unknown keys {', '.join(unknown)}"
        raise UsageError(f"{path} {fault}: ask your administrator")
    if not data["portal"].startswith("https://"):
        raise UsageError(f"{path}: portal must begin with https://: ask your administrator")
    return Settings(**data)
