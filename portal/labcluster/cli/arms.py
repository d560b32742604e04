"""The arms of a sweep, as labctl show has them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from labcluster.cli import output
from labcluster.cli.output import Column
from labcluster.cli.show import show as show_run

if TYPE_CHECKING:
    from labcluster.adapters.portal import Portal


def show(portal: Portal, run: str, state: str | None, as_json: bool) -> None:
    """A sweep, its best arm, and what each arm was drawn and reached."""
    found = portal.get(f"/runs/{run}/sweep")
    arms = [arm for arm in found["arms"] if state in (None, arm["state"])]
    best = next((arm for arm in found["arms"] if arm["id"] == found["best"]), None)
    if as_json:
        output.emit_json(found["run"] | {"members": arms, "best": best})
        return
    spec = found["sweep"]
    show_run(found["run"])
    output.fields([("page", f"{portal.url}/sweeps/{run}")])
    print()
    if best:
        chosen = " ".join(f"{name}={best['params'].get(name)}" for name in spec["params"])
        print(f"best: {best['id']} with {spec['metric']} {best['value']:g}: {chosen}")
    elif spec["metric"]:
        print(f"best: no arm has succeeded with a {spec['metric']} yet")
    names = list(spec["params"])
    columns = [Column("RUN"), Column("STATE"), *[Column(name, right=True) for name in names]]
    if spec["metric"]:
        columns.append(Column(spec["metric"], right=True))
    columns += [Column("TOOK", right=True), Column("REASON", wrap=True)]
    rows = []
    for arm in arms:
        value = [_short(arm["value"])] if spec["metric"] else []
        drawn = [_short(arm["params"].get(name)) for name in names]
        rows.append([arm["id"], arm["state"], *drawn, *value, output.took(arm), arm["reason"]])
    output.table(columns, rows)


def _short(value: Any) -> str | None:
    """A number with the digits that tell arms apart; --json has all."""
    try:
        return f"{float(value):.4g}"
    except (TypeError, ValueError):
        return None if value is None else str(value)
