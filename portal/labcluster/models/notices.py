"""Notices of what becomes of runs, and who wants them."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field, SecretStr

from labcluster.models.runs import RunState

DEFAULT_WAIT_SECONDS = 3600
#: How long a notice is tried, and how long one that was delivered can still be read.
GIVE_UP_SECONDS = 24 * 3600
KEPT_DAYS = 30


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class NoticeEvent(StrEnum):
    """What happened to a run; `test` is what somebody asked for."""

    START = "start"
    END = "end"
    FAILURE = "failure"
    WAIT = "wait"
    TEST = "test"


class ReceiverKind(StrEnum):
    """Where notices go; of an inbox they are read with `labctl notify read`."""

    WEBHOOK = "webhook"
    MAIL = "mail"
    INBOX = "inbox"


class Scope(StrEnum):
    """Whose runs: one user's own, or all of a project."""

    USER = "user"
    PROJECT = "project"


class ReceiverRequest(_Model):
    """What `labctl notify set` sends. A webhook's address is its secret."""

    kind: ReceiverKind
    target: SecretStr | None = Field(None, max_length=2000, description="an https address or a mail address")
    events: tuple[NoticeEvent, ...] = Field(
        (NoticeEvent.END, NoticeEvent.FAILURE, NoticeEvent.WAIT), min_length=1, max_length=4
    )
    wait_seconds: int = Field(
        DEFAULT_WAIT_SECONDS,
        ge=60,
        le=30 * 86400,
        description="how long a run waits before that is told",
    )


class ReceiverView(_Model):
    """A receiver as it is shown: its target is not."""

    scope: Scope
    owner: str
    name: str
    kind: ReceiverKind
    where: str = Field(description="the webhook's host, or the mail address")
    events: tuple[NoticeEvent, ...]
    wait_seconds: int
    set_by: str
    waiting: int = Field(0, description="notices that are still to be delivered")
    trouble: str | None = Field(None, description="why the last delivery failed; none: it did not")
    delivered_at: datetime | None = None


class Receiver(_Model):
    """A receiver as the table has it."""

    id: int
    scope: Scope
    owner: str
    name: str
    kind: ReceiverKind
    target: SecretStr
    events: tuple[NoticeEvent, ...]
    wait_seconds: int
    set_by: str
    trouble: str | None = None
    delivered_at: datetime | None = None


class Notice(_Model):
    """One thing to tell one receiver."""

    id: int
    receiver: int
    event: NoticeEvent
    at: datetime
    tries: int = 0
    #: empty for a test
    run: str = ""
    project: str = ""
    user: str = ""
    name: str = ""
    state: RunState | None = None
    reason: str | None = None
    attempt: int = 1


class NoticeView(_Model):
    """A notice as its receiver reads it."""

    at: datetime
    event: NoticeEvent
    run: str
    text: str


class ReceiverList(_Model):
    """Receivers of the caller and of his projects."""

    items: list[ReceiverView]


class NoticeList(_Model):
    """Notices of an inbox, newest last."""

    items: list[NoticeView]
