"""The registry's password file is the same each time, or each run would change a Secret."""

from __future__ import annotations

import pytest
from role_files import plugin

htpasswd_entry = plugin("filter_plugins/htpasswd.py").htpasswd_entry


def test_entry_is_bcrypt_and_the_same_each_time() -> None:
    entry = htpasswd_entry("secret", "cluster", "lab.internal")
    assert entry.startswith("cluster:$2b$04$")
    assert len(entry) == len("cluster:") + 60
    assert entry == htpasswd_entry("secret", "cluster", "lab.internal")


@pytest.mark.parametrize(
    "other", [("secret2", "cluster", "lab.internal"), ("secret", "cluster", "other.internal")]
)
def test_another_password_or_site_has_another_entry(other: tuple[str, str, str]) -> None:
    assert htpasswd_entry(*other) != htpasswd_entry("secret", "cluster", "lab.internal")
