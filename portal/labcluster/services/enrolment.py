"""Many people at once, as a list from an office: all of it is checked before anything is written.

An interrupted enrolment is finished by asking again: what was done already is found and left alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from labcluster.errors import LabclusterError, UsageError
from labcluster.models.members import Directory, EnrolmentItem, EnrolmentResult, Member
from labcluster.services.members import DirectoryStore, entry_change, wanted_member, write_member
from labcluster.services.projects import require_group


@dataclass(frozen=True)
class _Enrolment:
    """What one of them will be."""

    old: Member | None
    new: Member
    joins: tuple[str, ...]

    def actions(self) -> tuple[str, ...]:
        """In sentences."""
        entry = entry_change(self.old, self.new)
        joins = [f"add {self.new.name} to project {name}" for name in self.joins]
        return tuple([entry] if entry else []) + tuple(joins)


def enrol(
    store: DirectoryStore, items: Sequence[EnrolmentItem], *, dry_run: bool = False
) -> list[EnrolmentResult]:
    """Make all these people members, of their projects too; one result for each, in their order.

    When one of them cannot be enrolled nobody is: a dry run has the faults in its results, else an error
    names the first.
    """
    directory = store.read()
    plans: list[_Enrolment] = []
    results: list[EnrolmentResult] = []
    people = dict(directory.members)
    times = Counter(item.name for item in items)
    for item in items:
        try:
            if times[item.name] > 1:
                raise UsageError(f"the list has {item.name!r} {times[item.name]} times")
            # With those before him in it, so that he gets the next uid.
            seen = directory.model_copy(update={"members": people})
            plan = _Enrolment(
                directory.members.get(item.name),
                wanted_member(seen, item.name, item),
                _joins(directory, item),
            )
        except LabclusterError as error:
            results.append(EnrolmentResult(name=item.name, error=error.detail))
            continue
        people[item.name] = plan.new
        plans.append(plan)
        results.append(EnrolmentResult(name=item.name, actions=plan.actions()))
    faults = [result for result in results if result.error]
    if faults and not dry_run:
        more = f" ({len(faults) - 1} more like it)" if len(faults) > 1 else ""
        raise UsageError(f"nobody was enrolled: {faults[0].name}: {faults[0].error}{more}")
    if not dry_run:
        _write(store, plans)
    return results


def _joins(directory: Directory, item: EnrolmentItem) -> tuple[str, ...]:
    groups = [require_group(directory, name) for name in dict.fromkeys(item.projects)]
    return tuple(group.name for group in groups if item.name not in group.members)


def _write(store: DirectoryStore, plans: Iterable[_Enrolment]) -> None:
    """People first: a project never has a member whom the directory does not know."""
    joining: dict[str, list[str]] = {}
    for plan in plans:
        if entry_change(plan.old, plan.new):
            write_member(store, plan.old, plan.new)
        for name in plan.joins:
            joining.setdefault(name, []).append(plan.new.name)
    groups = store.read().groups
    for name, users in joining.items():
        members = tuple(dict.fromkeys((*groups[name].members, *users)))
        store.modify_group(groups[name], groups[name].model_copy(update={"members": members}))
