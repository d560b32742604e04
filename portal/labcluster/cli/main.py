"""The root of labctl: its verbs, and how a failure is told.

A failure is one line on standard error, `labctl: what, where, what to do`, and one of the exit statuses
of `labcluster.errors`. Once a run is accepted, `submit --wait` and `--follow` end with the run's own.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import click

from labcluster.cli.lazy import LazyGroup
from labcluster.errors import LabclusterError, UsageError

INTERRUPTED = 130

SECTIONS = {
    "Runs": {
        "submit": ("labcluster.cli.submit", "Run a command on the cluster."),
        "rerun": ("labcluster.cli.rerun", "Run a past run again, with changes."),
        "reproduce": (
            "labcluster.cli.reproduce",
            "Run a past run again and say whether it came out the same.",
        ),
        "sweep": ("labcluster.cli.sweep", "Search the best parameters of a command with many runs of it."),
        "ls": ("labcluster.cli.ls", "List runs, newest first."),
        "show": ("labcluster.cli.show", "Show all that is known about a run."),
        "logs": ("labcluster.cli.logs", "Print what a run printed."),
        "compare": ("labcluster.cli.compare", "Show what differs between runs, and what does not."),
        "report": (
            "labcluster.cli.report",
            "Write a summary of a project's runs in Markdown, with tables and pictures.",
        ),
        "export": ("labcluster.cli.export", "Write runs into a bundle that can be read without the cluster."),
        "cancel": ("labcluster.cli.cancel", "End runs that wait or run."),
        "shell": ("labcluster.cli.shell", "Open a shell inside your running run, or run a command there."),
        "attach": (
            "labcluster.cli.attach",
            "Follow a run's output until its end, and end with its exit status.",
        ),
        "forward": (
            "labcluster.cli.forward",
            "Make ports of your running run reachable on this machine, until Ctrl-C or the run's end.",
        ),
        "proxy": ("labcluster.cli.proxy", "Carry one ssh connection into a run; for ssh's ProxyCommand."),
    },
    "Projects": {
        "notebook": ("labcluster.cli.notebook", "Run notebooks on the cluster."),
        "pipeline": (
            "labcluster.cli.pipeline",
            "Run pipelines: tasks that are done once for the same parameters and code.",
        ),
        "new": ("labcluster.cli.new", "Make a project of training code from the template."),
    },
    "Cluster": {
        "queue": ("labcluster.cli.queue", "Show what runs and what waits, and why."),
        "nodes": ("labcluster.cli.nodes", "Show the nodes and what is free on them."),
        "usage": ("labcluster.cli.usage", "Show who used how much of GPUs, processors and storage."),
        "passwd": ("labcluster.cli.passwd", "Change your password."),
        "image": ("labcluster.cli.image", "Images that runs use: list, build, push and remove them."),
        "notify": ("labcluster.cli.notify", "Be told what becomes of runs: start, end, failure, long waits."),
        "whoami": ("labcluster.cli.whoami", "Show who you are to the cluster, and your projects."),
    },
    "Access": {
        "login": (
            "labcluster.cli.login",
            "Log in with the name and password of the cluster, in any browser.",
        ),
        "logout": ("labcluster.cli.logout", "Forget the login of this machine."),
        "kubeconfig": (
            "labcluster.cli.kubeconfig",
            "Print a kubeconfig with which kubectl works under your own name.",
        ),
    },
    "Administration": {
        "admin": ("labcluster.cli.admin", "Manage members and projects (administrators only)."),
        "validate": (
            "labcluster.cli.validate",
            "Check a site's inventory folder: every value, and every value against the others.",
        ),
    },
    "Other": {
        "completion": ("labcluster.cli.completion", "Print the completion script of a shell."),
        "version": ("labcluster.cli.version", "Show versions and the portal in use."),
    },
}


@click.group(
    cls=LazyGroup,
    sections=SECTIONS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Files under /lab are the same here and in every run. Exit status: 2 usage, 3 not allowed, "
    "4 not found, 5 conflict or quota, 6 the cluster does not answer and nothing was accepted, 1 our fault;"
    " of reproduce also 7 drifted, 8 impossible.",
)
def labctl() -> None:
    """Run training on the cluster, and look after it.

    \b
      labctl submit --gpus 1 --follow -- python3 train.py
    """


def main(arguments: Sequence[str] | None = None) -> int:
    """Run labctl and answer its exit status."""
    try:
        answer = labctl.main(
            args=None if arguments is None else list(arguments), prog_name="labctl", standalone_mode=False
        )
        sys.stdout.flush()
    except click.exceptions.NoArgsIsHelpError as error:
        print(error.format_message(), file=sys.stderr)
        return UsageError.exit_code
    except click.UsageError as error:
        return _fail(UsageError(_usage(error)))
    except click.ClickException as error:
        return _fail(UsageError(error.format_message()))
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except LabclusterError as error:
        return _fail(error)
    except ModuleNotFoundError as error:
        where = "it is a verb for the administrator's machine, .venv/bin/labctl there has it"
        return _fail(UsageError(f"the Python package {error.name} is not on this machine: {where}"))
    except BrokenPipeError:
        # The reader (head, less) has seen enough. Python must not complain when it flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if os.environ.get("LABCTL_DEBUG"):
            raise
        what = f"{type(error).__name__}: {error}"
        return _fail(LabclusterError(f"a fault in labctl itself, {what}: LABCTL_DEBUG=1 shows where"))
    return answer if isinstance(answer, int) else 0


def _usage(error: click.UsageError) -> str:
    message = error.format_message().rstrip(".")
    for clicks, ours in (
        (". (Did you mean one of: ", ", did you mean "),
        (". (Did you mean ", ", did you mean "),
    ):
        message = message.replace(clicks, ours)
    message = message[:1].lower() + message[1:].replace("?)", "?")
    if "--" in message and " as in " in message:  # says what to type already
        return message
    path = error.ctx.command_path if error.ctx else "labctl"
    return f"{message}; see {path} --help"


def _fail(error: LabclusterError) -> int:
    print("labctl:", " ".join(error.detail.split()), file=sys.stderr)
    return error.exit_code
