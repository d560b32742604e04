"""labctl notebook run."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import click

from labcluster.cli import submitting
from labcluster.errors import NotFoundError, UsageError

# $1 is the notebook. IPython's history and the kernel's sockets belong on the pod's own disk, not on NFS.
_MISSING = "the python3 of this image lacks papermill or ipykernel: install both, or take another --image"
_SCRIPT = "; ".join(
    (
        "python3 -c 'import papermill, ipykernel' 2>/dev/null"
        f" || {{ echo 'labctl notebook: {_MISSING}' >&2; exit 127; }}",
        "export IPYTHONDIR=/tmp/ipython JUPYTER_RUNTIME_DIR=/tmp/jupyter",
        "notebook=$1",
        "shift",
        'exec python3 -m papermill "$notebook" "$LABCLUSTER_ARTIFACTS_DIR/${notebook##*/}" "$@"',
    )
)


@click.pass_context
def run(context: click.Context, /, notebook: str, kernel: str | None, **_: Any) -> Any:
    """Run a notebook on the cluster, with parameters.

    Its cells run in order in this directory, by papermill in the run's image. Parameters take the place of
    those in the cell with the tag `parameters`, and are the run's own: compare and rerun know them. What the
    cells print is the run's log; the executed copy is in artifacts/, also of a run that a cell made fail.

    \b
      labctl notebook run explore.ipynb -p epochs=5 -p rate=0.1 --follow
      labctl rerun vision-12 --set epochs=10
    """
    path = Path(notebook)
    own = _kernel(path)
    given = context.params
    words = ["sh", "-ec", _SCRIPT, "notebook", notebook, "--log-output", "--no-progress-bar"]
    words += ["--kernel", kernel or own]
    for name, _value in given["params"]:
        words += ["-p", name, f"{{{name}}}"]
    called = re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem).strip("-._")[:63] or None
    return submitting.hand_on(context, words, name=given["name"] or called)


def _kernel(path: Path) -> str:
    """The kernel for a notebook; Python's has one name in every image, whatever it had where it was made."""
    try:
        with path.open(encoding="utf-8") as file:
            content = json.load(file)
        metadata = content["metadata"]
        spec = metadata.get("kernelspec") or {}
    except FileNotFoundError:
        raise NotFoundError(f"there is no notebook {path} here") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {(error.strerror or 'input error').lower()}") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UsageError(f"{path} is not a notebook: give a file of Jupyter's, .ipynb") from None
    language = spec.get("language") or (metadata.get("language_info") or {}).get("name") or "python"
    return "python3" if language == "python" else str(spec.get("name"))


command = click.Command(
    "run",
    callback=run,
    help=run.__doc__,
    params=[
        click.Argument(["notebook"], metavar="FILE.ipynb"),
        click.Option(
            ["-k", "--kernel"], help="Kernel in the image.  [default: python3, else the notebook's own]"
        ),
        *submitting.options(),
    ],
)
