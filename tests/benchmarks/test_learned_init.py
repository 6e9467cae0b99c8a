"""The experiment with learned initial adapters runs, on one layer of the embedded model."""

import re

import pytest

from benchmarks import learned_init
from tests.worlds import first_layer


@pytest.mark.slow
def test_the_table_has_every_start(monkeypatch, capsys):
    monkeypatch.setattr(learned_init, "load_model", first_layer)
    learned_init.main(["--updates=2", "--seeds=2", "--tasks=2", "--heldout=2", "--steps=2", "--rank=2"])
    learned = ["learned start", "learned start and rates"]
    names = ["no adaptation", "default", *(name + end for name in learned for end in (", not adapted", ""))]
    assert re.findall(r"^\| (\w[^|]*) \| -\d", capsys.readouterr().out, re.MULTILINE) == names
