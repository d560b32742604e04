"""Work that several threads ask for at the same moment."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

import pytest
from labcluster.adapters.together import Together


def test_what_comes_during_the_work_is_done_together_and_answered_one_by_one() -> None:
    batches: list[list[int]] = []
    go = threading.Event()

    def serve(asked: Sequence[int]) -> list[int | Exception]:
        batches.append(list(asked))
        go.wait(5)
        return [ValueError(str(number)) if number == 3 else number * 2 for number in asked]

    together: Together[int, int] = Together(serve, most=4)
    answers: dict[int, object] = {}

    def ask(number: int) -> None:
        try:
            answers[number] = together.do(number)
        except ValueError as error:
            answers[number] = str(error)

    first = threading.Thread(target=ask, args=(0,))
    first.start()
    while not batches:
        time.sleep(0.001)
    others = [threading.Thread(target=ask, args=(number,)) for number in range(1, 7)]
    for number, thread in enumerate(others, 1):
        thread.start()
        while len(together._waiting) < number:
            time.sleep(0.001)
    go.set()
    for thread in (first, *others):
        thread.join(5)
    assert batches == [[0], [1, 2, 3, 4], [5, 6]]
    assert answers == {0: 0, 1: 2, 2: 4, 3: "3", 4: 8, 5: 10, 6: 12}


def test_failure_goes_to_all_and_the_next_is_served() -> None:
    calls = 0

    def serve(asked: Sequence[int]) -> list[int | Exception]:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise OSError("away")
        return list(asked)

    together: Together[int, int] = Together(serve, most=4)
    with pytest.raises(OSError, match="away"):
        together.do(1)
    assert together.do(2) == 2
