"""The progress display."""

import io

import pytest

from selfadapt.telemetry import progress as display


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test moves."""
    now = [100.0]
    monkeypatch.setattr(display.time, "perf_counter", lambda: now[0])
    return now


def test_progress_is_plain_lines_when_not_on_a_terminal(clock):
    stream = io.StringIO()
    shown = display.Progress(stream, interval=10)
    with shown.phase("sample", total=4, unit="passage", label="round 1: sample") as step:
        for _ in range(4):
            clock[0] += 6
            step.advance()
    shown.log("reward 0.5")
    assert stream.getvalue().splitlines() == [
        "round 1: sample: 2/4 passages, 0.167 passages/s, 12 s left",
        "round 1: sample: 4/4 passages, 0.167 passages/s, 0.0 s left",
        "round 1: sample: 4/4 passages, 0.167 passages/s, done in 24 s",
        "reward 0.5",
    ]
    assert shown.seconds == {"sample": 24.0}


def test_progress_is_a_bar_on_a_terminal():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    stream = Terminal()
    with display.Progress(stream).phase("score", total=8, unit="edit") as step:
        step.advance(8)
    assert "score: 100%" in stream.getvalue() and "8/8" in stream.getvalue() and "edit/s" in stream.getvalue()


def test_seconds_add_up_per_phase_and_nested_phases_are_not_counted_twice(clock):
    shown = display.Progress(io.StringIO())
    for _ in range(2):
        with shown.phase("round"):
            clock[0] += 1
            with shown.phase("compile"):
                clock[0] += 10
    assert shown.seconds == {"compile": 20.0, "round": 2.0}


def test_a_phase_that_fails_is_shown_as_stopped(clock):
    stream = io.StringIO()
    with pytest.raises(RuntimeError), display.Progress(stream).phase("adapt"):
        clock[0] += 3
        raise RuntimeError
    assert stream.getvalue() == "adapt: stopped after 3.0 s\n"
