"""The list of faults for `python -m tests.mutants` fits the code and the tests as they are."""

import ast
import pathlib

import pytest

from tests.mutants.faults import FAULTS, Fault

ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_applies_and_its_tests_exist(fault):
    sound = (ROOT / fault.file).read_text(encoding="utf-8")
    broken = fault.apply(sound)
    assert broken != sound
    ast.parse(broken)
    for test in fault.tests:
        file, _, name = test.partition("::")
        text = (ROOT / file).read_text(encoding="utf-8")
        assert f"def {name.partition('[')[0]}(" in text if name else True


def test_names_are_unique():
    names = [fault.name for fault in FAULTS]
    assert len(set(names)) == len(names) >= 40


def test_a_line_that_is_absent_or_not_unique_is_an_error_that_names_it():
    fault = Fault("zero", "a.py", "x = 1", "x = 0", ("tests/test_a.py",))
    assert fault.apply("if y:\n    x = 1\n") == "if y:\n    x = 0\n"
    for text in ("x = 11\n", "x = 1\nx = 1\n"):
        with pytest.raises(ValueError, match=r"a\.py.*'x = 1'"):
            fault.apply(text)
