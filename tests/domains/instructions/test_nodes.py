"""Many instructions of many environments in one batch."""

import pytest

from selfadapt.domains.instructions import nodes
from selfadapt.domains.instructions.nodes import Candidate, Room, draw_batch, evaluate_nodes
from selfadapt.domains.tiny.rules.format import LineFormat
from selfadapt.domains.tiny.rules.source import TinyRules, oracle_instruction
from selfadapt.errors import InvalidEdit
from tests.domains.instructions import following

ANSWERS = dict(max_new_tokens=16, stop=["\n"])


@pytest.fixture
def generate(monkeypatch):
    fake = following.Generate()
    monkeypatch.setattr(nodes, "generate", fake)
    return fake


def candidates(count=4):
    """The oracle's instruction of each environment, and its first half."""
    for environment in TinyRules().environments("heldout", count):
        oracle = oracle_instruction(environment)
        for text in (oracle, "\n".join(oracle.split("\n")[:3])):
            yield Candidate(environment, text, draw_batch(environment, 5, 0, 1))


def alone(candidate):
    """Scores and summary of one instruction, problem by problem."""
    environment = candidate.environment

    def reward(problem):
        answer = following.follow(environment.prompt(problem, candidate.instruction))
        return answer, environment.verdicts([problem], [answer])[0].reward

    scores = tuple(reward(problem)[1] for problem in environment.holdout)
    return scores, [(problem.id, *reward(problem)) for problem in candidate.batch]


def test_a_batch_of_instructions_is_scored_as_each_problem_of_each_alone(generate):
    given = list(candidates())
    results = evaluate_nodes(following.model(), given, **ANSWERS)
    for candidate, found in zip(given, results, strict=True):
        scores, lines = alone(candidate)
        assert found.scores == scores
        assert [(line.problem.id, line.answer, line.verdict.reward) for line in found.summary] == lines
    assert sum(map(sum, (found.scores for found in results[::2]))) == 4 * 16
    assert len(generate.calls) == 1


def test_equal_prompts_are_answered_once(generate):
    first, *_ = candidates()
    twice = evaluate_nodes(following.model(), [first, first], **ANSWERS)
    assert twice[0] == twice[1] and generate.calls == [16 + 5]
    assert evaluate_nodes(following.model(), [], **ANSWERS) == []


def test_the_problems_of_a_round_are_of_the_pool_and_differ_by_round_environment_and_seed():
    one, other = TinyRules().environments("train", 2)
    drawn = draw_batch(one, 5, 0, 1)
    assert drawn == draw_batch(one, 5, 0, 1) and set(drawn) < set(one.pool) and len(set(drawn)) == 5
    places = {tuple(one.pool.index(problem) for problem in drawn)}
    for environment, seed, round in ((one, 0, 2), (one, 1, 1), (other, 0, 1)):
        places.add(tuple(environment.pool.index(p) for p in draw_batch(environment, 5, seed, round)))
    assert len(places) == 4
    assert len(draw_batch(one, 40, 0, 1)) == 40


def test_a_summary_is_restored_from_json(generate):
    environment = TinyRules().environments("heldout", 4)[3]
    (found,) = evaluate_nodes(following.model(), [Candidate(environment, "", environment.pool[:4])], **ANSWERS)
    assert any(line.verdict.error for line in found.summary)
    lines = nodes.summary_to_json(found.summary)
    assert nodes.summary_from_json(environment, lines) == found.summary
    assert lines[0]["question"] == environment.pool[0].question and lines[0]["reward"] == 0.0


def test_prompts_that_do_not_fit_are_invalid_edits():
    environment = TinyRules().environments("heldout", 1)[0]
    room = Room(following.model(64).model, following.model(128).model, 32, 16)
    room.check_answers(environment, "plum = C", environment.holdout)
    with pytest.raises(InvalidEdit, match=r"the instruction makes a prompt of \d+ tokens, .* leaves 112"):
        room.check_answers(environment, "plum = C\n" * 40, environment.holdout)
    prompt = LineFormat().edit_prompt(environment, "plum = C\n" * 9, ())
    with pytest.raises(InvalidEdit, match=r"the summary makes a prompt of \d+ tokens, .* leaves 32"):
        room.check_edit(prompt)
