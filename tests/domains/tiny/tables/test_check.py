"""Tests of the measurements of the pretrained model, on a model that is written here."""

import pytest

from selfadapt.domains.tiny.tables import check
from tests.domains.tiny.rules import reference

WRITTEN = ("words:\n{0}\n{1}", "weights:\n{0}\nthink", "words:\n{0}\nweights:\n{1}", "{0}\n{1}")


def stated(prompt):
    """The facts of an edit's prompt, or two lines that its examples show: of codes, units or formats."""
    lines = [line for line in prompt.split("\n") if " = " in line]
    for line in prompt.split("\n"):
        if " | " in line:
            key, asked = line.split(" ")[1], line.split(" ")[2:]
            truth = line.split(" | ")[1]
            for number in asked[: asked.index("->")]:
                truth = truth.replace(number, "", 1)
            lines.append(f"{key} = {truth.strip()}")
    return lines


def answer(prompt):
    *lines, question = prompt.split("\n")
    if question.startswith("? "):
        return reference.answer(lines, question.removeprefix("? ").removesuffix(" -> "))
    return next((line.removeprefix(question) for line in lines if line.startswith(question)), "?")


@pytest.fixture
def measured(monkeypatch):
    def generate(given, prompts, *, max_new_tokens, stop=(), temperature=0.0, num_samples=None, seed=0):
        assert given == "model"
        if num_samples is None:
            assert (temperature, stop) == (0.0, "\n")
            return [answer(prompt) for prompt in prompts]
        assert (temperature, num_samples) == (1.0, 4) and all(prompt.endswith("rewrite:\n") for prompt in prompts)
        return [[text.format(*stated(prompt)) for text in WRITTEN] for prompt in prompts]

    monkeypatch.setattr(check, "generate", generate)
    return check.check("model", cases=4, edits=4)


def test_shares_and_accuracies_are_those_of_the_models_edits_and_answers(measured):
    assert set(measured) == {"rule", "table", "mixed"}
    for found in measured.values():
        assert (found["looked_up"], found["unknown"]) == (1, 0)
        assert [found[way] for way in ("words", "weights", "both", "invalid")] == [0.25] * 4
        assert found["right"] == pytest.approx(5 / 6)  # one of six lines says nothing
