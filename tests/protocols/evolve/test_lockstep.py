"""Programs in lock step: what is one batch, and what becomes of the others when one fails."""

import random
import threading
import time

import pytest

from selfadapt.protocols.evolve.lockstep import run_together


def program(number, requests, slow):
    """Asks for (number, 0), (number, 1), ..., at its own pace."""

    def run(ask):
        replies = []
        for place in range(requests):
            time.sleep(slow.random() / 500)
            replies.append(ask((number, place)))
        return replies

    return run


def test_each_step_has_one_request_of_every_program_that_is_left_whatever_their_pace():
    steps = {}
    for seed in range(3):
        slow, batches = random.Random(seed), []

        def answer(step, requests, batches=batches):
            assert step == len(batches) and threading.current_thread() is threading.main_thread()
            batches.append(requests)
            return [f"{step}: {request}" for _, request in requests]

        results = run_together([program(number, count, slow) for number, count in enumerate((2, 0, 3))], answer)
        assert results == [[f"{p}: (0, {p})" for p in range(2)], [], [f"{p}: (2, {p})" for p in range(3)]]
        steps[seed] = batches
    expected = [[(0, (0, step)), (2, (2, step))] for step in range(2)] + [[(2, (2, 2))]]
    assert list(steps.values()) == [expected] * 3
    assert run_together([], lambda step, requests: []) == []


def test_a_failure_ends_all_programs_and_is_raised():
    before, caught = threading.active_count(), []

    def handled(ask):
        try:
            while True:
                ask(0)
        except Exception as error:
            caught.append(error)

    def failing(ask):
        raise OSError("of a program")

    def interrupted(step, requests):
        if step == 2:
            raise KeyboardInterrupt
        return [None] * len(requests)

    with pytest.raises(OSError, match="of a program"):
        run_together([handled, failing], lambda step, requests: [None] * len(requests))
    with pytest.raises(KeyboardInterrupt):
        run_together([handled, handled], interrupted)
    assert threading.active_count() == before and not caught
