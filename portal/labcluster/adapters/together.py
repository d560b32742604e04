"""Several threads' work of one moment, done in one go."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")


class _Place(Generic[Asked, Answer]):
    """One thread's work, and what became of it."""

    def __init__(self, asked: Asked) -> None:
        self.asked = asked
        self.answer: Answer | None = None
        self.error: BaseException | None = None
        self.done = False
        self.wake = threading.Event()


class Together(Generic[Asked, Answer]):
    """Gathers what arrives while the work before it is being done.

    Nobody waits for company: who comes alone is served alone and at once. Who comes while another is
    being served waits for that, and is then served together with all who came meanwhile. `serve` gets
    them in their order and answers each with its answer or its error; what it raises goes to all.
    """

    def __init__(self, serve: Callable[[Sequence[Asked]], Sequence[Answer | Exception]], most: int) -> None:
        self._serve = serve
        self._most = most
        self._lock = threading.Lock()
        self._waiting: list[_Place[Asked, Answer]] = []
        self._busy = False

    def do(self, asked: Asked) -> Answer:
        """The answer to this thread's work, or its error."""
        place: _Place[Asked, Answer] = _Place(asked)
        with self._lock:
            self._waiting.append(place)
            leads = not self._busy
            self._busy = True
        if not leads:
            place.wake.wait()
        if not place.done:  # woken to lead: whoever led before us has gone with his own answer
            self._lead()
        if place.error is not None:
            raise place.error
        return place.answer  # type: ignore[return-value]

    def _lead(self) -> None:
        with self._lock:
            batch = self._waiting[: self._most]
            del self._waiting[: self._most]
        try:
            for place, answer in zip(batch, self._serve([one.asked for one in batch]), strict=True):
                if isinstance(answer, Exception):
                    place.error = answer
                else:
                    place.answer = answer
        except BaseException as error:
            for place in batch:
                place.error = error
            if not isinstance(error, Exception):
                raise
        finally:
            with self._lock:
                for place in batch:
                    place.done = True
                following = self._waiting[0] if self._waiting else None
                self._busy = following is not None
            for place in batch:
                place.wake.set()
            if following is not None:
                following.wake.set()
