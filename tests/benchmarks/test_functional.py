"""The benchmark of an episode beside the host's path runs, on the embedded model."""

import re

import pytest

from benchmarks import functional


@pytest.mark.slow
def test_both_paths_give_the_same_rewards(capsys):
    # Fewer layers write lines that are encoded to other tokens than were sampled, for which rewards differ.
    functional.main(["--contexts=2", "--edits=2", "--tokens=24", "--repeats=1"])
    found = capsys.readouterr().out
    assert "other rewards: 4, mean " in found and re.search(r"different by more than 0\.01, .*: 0\n", found)
    assert float(re.search(r"largest difference of the rest: (\d\.\d+) nats", found)[1]) < 0.01
    assert "edits cut to 8 lines of 32 tokens: 0\n" in found
    assert found.count("| one program |") == 1
