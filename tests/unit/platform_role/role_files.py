"""Plugins of the role platform, which are no package of the environment."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

ROLE = Path(__file__).parents[3] / "ansible" / "roles" / "platform"


def plugin(path: str) -> ModuleType:
    """The plugin at a path below the role."""
    spec = importlib.util.spec_from_file_location(f"platform_{Path(path).stem}", ROLE / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
