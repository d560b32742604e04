"""Everything that is checked about a submit before anything is written or made."""

from __future__ import annotations

import hashlib
import json
import posixpath
import re
from collections.abc import Mapping, Sequence
from typing import Any

from labcluster.errors import ConflictError, NotAllowedError, NotFoundError, UsageError
from labcluster.models import quantities
from labcluster.models.runs import Member, NewArray, NewRun, ProjectShare, RunRequest, Submission
from labcluster.models.settings import RunLimits
from labcluster.models.sweeps import SweepSpec
from labcluster.services import holding, images
from labcluster.services.arrays import parse_array
from labcluster.services.jobs import RECORDER_NEEDS
from labcluster.services.nodes import Amount, capacity
from labcluster.services.ports import ClusterView, ImageRegistry

# Everybody is in it, so that it never decides which project somebody means.
EVERYBODY = "shared"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_RESERVED_ENV = ("LABCLUSTER_", "NVIDIA_VISIBLE_DEVICES", "KUBERNETES_")
_MAX_TEXT = 128 * 1024
_MAX_PARAMS = 32 * 1024


def fingerprint(request: RunRequest) -> str:
    """What tells two requests under one idempotency key apart."""
    # A script that asks once more may have changed its own folder meanwhile: it still means the same run.
    body = json.dumps(request.model_dump(exclude={"idempotency_key", "code"}), sort_keys=True)
    return hashlib.sha256(body.encode()).hexdigest()


def check(
    request: RunRequest,
    user: str,
    view: ClusterView,
    registry: ImageRegistry,
    *,
    default_image: str,
    limits: RunLimits,
) -> Submission:
    """The request with every name resolved, or the error that says what is wrong with it.

    Only its parent and what it comes after are not looked at: they are in the run table.
    """
    memberships = view.memberships(user)
    command = _command(request.command)
    project = choose_project(request.project, user, memberships, view)
    member = memberships[project.name]
    name = _name(request.name, command)
    if request.code is None:
        workdir = _place("working directory", request.workdir, user, memberships)
    else:
        _below(request.code.subdir)
        workdir = _absolute("working directory", request.workdir)
    env = _env(request.env)
    _resources(request, project, view, limits)
    reference, digest = images.resolve(registry, request.image or default_image, project.name, default_image)
    array = parse_array(request.array, limits.max_array) if request.array is not None else None
    if request.sweep is not None:
        array = _sweep(request, request.sweep, limits)
    if array and request.nodes > 1:
        what = "sweep" if array.sweep else "--array"
        raise UsageError(f"--nodes and {what}: each member of an array runs on one node")
    run = NewRun(
        project=project.name,
        name=name,
        user=user,
        uid=member.uid,
        gid=member.gid,
        image=reference,
        image_digest=digest,
        command=command,
        workdir=workdir,
        gpus=request.gpus,
        cpus=request.cpus,
        memory=request.memory,
        time_seconds=request.time_seconds or limits.default_time_seconds,
        nodes=request.nodes,
        priority=request.priority,
        requeue=request.requeue,
        after=tuple(dict.fromkeys(request.after)),
        array_size=len(array.indices) if array else None,
        env=env,
        code=request.code,
        params=_params(request.params),
        seed=request.seed,
        data=tuple(dict.fromkeys(_place("--data", path, user, memberships) for path in request.data)),
        parent=request.parent,
    )
    waits = None
    for after in run.after:
        holding.target(after)
    if run.after:
        first = run.after[0]
        waits = holding.waits_after(first.removesuffix(":ok"), ok=first.endswith(":ok"))
    if array and array.sweep:
        return Submission(run=run, array=array, reason=waits, held_reason=waits or holding.WAITS_FOR_DRAW)
    held = waits or (holding.waits_for_array(array.parallel) if array and array.parallel else None)
    return Submission(run=run, array=array, reason=waits, held_reason=held)


def choose_project(
    wanted: str | None, user: str, memberships: Mapping[str, Member], view: ClusterView
) -> ProjectShare:
    """The project that a submit goes to."""
    mine = sorted(memberships)
    if not mine:
        raise NotAllowedError(f"{user} is in no project: ask your administrator to add you to one")
    if wanted is None:
        candidates = [name for name in mine if name != EVERYBODY] or mine
        if len(candidates) > 1:
            raise UsageError(f"which project? you are in {', '.join(mine)}: add --project NAME")
        wanted = candidates[0]
    share = view.project(wanted)
    if wanted not in memberships:
        if share is None:
            raise NotFoundError(f"there is no project {wanted!r}; yours are {', '.join(mine)}")
        raise NotAllowedError(f"{user} is no member of project {wanted}; yours are {', '.join(mine)}")
    if share is None:
        raise NotFoundError(f"project {wanted!r} is being removed")
    return share


def _sweep(request: RunRequest, sweep: SweepSpec, limits: RunLimits) -> NewArray:
    """The arms of a sweep as an array; they get their parameters later."""
    if request.array is not None:
        raise UsageError("a sweep is an array of its own making: leave --array out")
    twice = sorted(sweep.params.keys() & request.params.keys())
    if twice:
        raise UsageError(f"--set {twice[0]}: the sweep chooses {twice[0]} itself")
    total = sweep.total()
    if total > limits.max_array:
        raise UsageError(f"a sweep of {total} arms: at most {limits.max_array} are allowed; take --arms N")
    return NewArray(text=sweep.indices(), indices=tuple(range(total)), parallel=sweep.limit(), sweep=sweep)


def _command(command: Sequence[str]) -> tuple[str, ...]:
    if not command or not command[0].strip():
        raise UsageError("no command given: put it after --, as in labctl submit -- python train.py")
    if any("\0" in word for word in command):
        raise UsageError("the command has a NUL character in it")
    if sum(map(len, command)) > _MAX_TEXT:
        raise UsageError(f"the command is longer than {_MAX_TEXT // 1024} KiB: put it into a script")
    return tuple(command)


def _name(name: str | None, command: Sequence[str]) -> str:
    if name is None:
        script = next((word for word in command if word.endswith((".py", ".sh"))), command[0])
        stem = posixpath.basename(script.split()[0]).rsplit(".", 1)[0]
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-._")[:40] or "run"
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"name {name!r}: use at most 63 letters, digits, '.', '_', '-', a letter or digit first"
        )
    return name


def _absolute(what: str, path: str) -> str:
    if not path.startswith("/") or "\0" in path:
        raise UsageError(f"{what} {path!r}: give an absolute path under /lab")
    return "/" + posixpath.normpath(path).lstrip("/")


def _place(what: str, wanted: str, user: str, memberships: Mapping[str, Member]) -> str:
    """Only what a pod can see and this user may use; that it exists is seen when the run starts."""
    path = _absolute(what, wanted)
    visible = [f"/lab/home/{user}", f"/lab/scratch/{user}", "/lab/datasets"]
    visible += [f"/lab/projects/{project}" for project in sorted(memberships)]
    if any(path == place or path.startswith(place + "/") for place in visible):
        return path
    if path != "/lab" and not path.startswith("/lab/"):
        raise UsageError(
            f"{what} {path} is not on the shared tree, so that a run cannot see it:"
            f" go to /lab/home/{user} or to your project's place under /lab/projects"
        )
    raise UsageError(f"{what} {path} is not one of yours: go under {', '.join(visible)}")


def _below(subdir: str) -> None:
    if subdir and (posixpath.normpath(subdir) != subdir or subdir.startswith(("/", "..")) or "\0" in subdir):
        raise UsageError(f"the code starts in {subdir!r}, which is no folder below its root")


def _params(params: Mapping[str, str]) -> dict[str, str]:
    for name, value in params.items():
        if "\0" in value:
            raise UsageError(f"--set {name}: its value has a NUL character in it")
    # They reach the command as one variable, of which Linux takes 128 KiB.
    if sum(len(name) + len(value) for name, value in params.items()) > _MAX_PARAMS:
        raise UsageError(f"the parameters are larger than {_MAX_PARAMS // 1024} KiB: put them into a file")
    return dict(params)


def _env(env: Mapping[str, str]) -> dict[str, str]:
    for key, value in env.items():
        if not _ENV_NAME.fullmatch(key):
            raise UsageError(f"--env {key!r}: a name has only letters, digits and '_', and no digit first")
        if key.startswith(_RESERVED_ENV):
            raise UsageError(f"--env {key}: this name is set by the cluster")
        if "\0" in value:
            raise UsageError(f"--env {key}: its value has a NUL character in it")
    if sum(len(key) + len(value) for key, value in env.items()) > _MAX_TEXT:
        raise UsageError(f"the environment is larger than {_MAX_TEXT // 1024} KiB: put it into a file")
    return dict(env)


def _resources(request: RunRequest, project: ProjectShare, view: ClusterView, limits: RunLimits) -> None:
    """That some node could ever run it, and that the project's maximum allows it."""
    try:
        memory = quantities.parse(request.memory)
    except ValueError:
        raise UsageError(f"--memory {request.memory!r}: write it as 512Mi, 4Gi or 64G") from None
    if memory < quantities.parse(limits.min_memory):
        raise UsageError(
            f"--memory {request.memory}: at least {limits.min_memory} are needed to start anything"
        )
    if request.cpus < 0.1:
        raise UsageError(f"--cpus {request.cpus:g}: at least 0.1 is needed")
    if request.time_seconds and request.time_seconds > limits.max_time_seconds:
        days = limits.max_time_seconds / 86400
        raise UsageError(f"--time {request.time_seconds} s: at most {days:g} days are allowed")
    # Beside each command there is its recorder.
    nodes = [capacity(node) - RECORDER_NEEDS for node in view.nodes()]
    _fits("gpus", request.gpus, [n.gpus for n in nodes], "{:g}")
    if request.gpus * request.nodes > project.max_gpus:
        times = f" on --nodes {request.nodes}" if request.nodes > 1 else ""
        raise ConflictError(
            f"--gpus {request.gpus}{times}: project {project.name} may use at most"
            f" {project.max_gpus} at a time"
        )
    suited = [node for node in nodes if node.gpus >= request.gpus]
    beside = f" on a node with {request.gpus} GPUs" if request.gpus else ""
    _fits("cpus", request.cpus, [n.cpus for n in suited], "{:g}", beside)
    _fits("memory", memory, [n.memory for n in suited], quantities.show_bytes, beside)
    if request.nodes > 1:
        _gang(request, memory, nodes)


def _gang(request: RunRequest, memory: float, nodes: Sequence[Amount]) -> None:
    """That all pods of a gang have room at the same time when nothing else runs."""
    room = 0
    for node in nodes:
        fits = [node.cpus // request.cpus, node.memory // memory]
        if request.gpus:
            fits.append(node.gpus // request.gpus)
        room += int(min(fits))
    if room < request.nodes:
        raise ConflictError(
            f"--nodes {request.nodes} is more than there is: the cluster has room for {room} such at once"
        )


def _fits(option: str, wanted: float, offers: Sequence[float], show: Any, beside: str = "") -> None:
    form = show.format if isinstance(show, str) else show
    largest = max(offers, default=0)
    if wanted <= largest:
        return
    total = f" ({form(sum(offers))} in the whole cluster)" if option == "gpus" and offers else ""
    has = f"the largest node has {form(largest)}{total}" if offers else "there is no node to run on now"
    raise ConflictError(f"--{option} {form(wanted)} is more than there is{beside}: {has}")
