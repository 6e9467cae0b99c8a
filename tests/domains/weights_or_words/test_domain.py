"""Tests of the domain in which an edit chooses between words and weights, on the world of tables."""

import dataclasses

import pytest

from selfadapt import ContextEdit, Edit, Outcome, Update, load_model, loop
from selfadapt.config import load_config
from selfadapt.defaults import resolve
from selfadapt.domains import Narrowed, Recorded, Referenced, make_domain
from selfadapt.errors import InvalidEdit, UserError
from selfadapt.types import ContextUpdate, Rejected

BOTH = "words:\napple = K\nweights:\npug = R\nteas = B"
LINES = (("pug = ", "R\n"), ("teas = ", "B\n"))


@pytest.fixture(scope="module")
def model():
    return load_model("tiny_tables")


@pytest.fixture
def build(model):
    def make(**changes):
        config = load_config("lse/weights_or_words", {name.replace("__", "."): v for name, v in changes.items()})
        return make_domain(resolve(config), model)

    return make


def test_an_edit_is_applied_as_its_markers_say(build):
    domain = build()
    (task,) = domain.tasks("heldout", 1)
    words, weights, both = (
        domain.apply(task, text) for text in ("words:\napple = K\nplum = C", "weights:\npug = R\nteas = B", BOTH)
    )
    assert words == ContextEdit("apple = K\nplum = C")
    assert type(weights) is Update and weights.sequences == LINES and weights.loss == "target"
    assert type(both) is ContextUpdate and (both.context, both.sequences) == ("apple = K", LINES)
    assert (weights.rank, weights.epochs, both.rank, both.epochs) == (8, 12, 8, 12)
    assert domain.apply(task, None) == domain.baseline(task) == domain.unchanged(task) == ContextEdit("")


def test_a_bad_edit_is_rejected_with_its_reason_and_its_neighbours_are_not(build):
    domain = build()
    (task,) = domain.tasks("heldout", 1)
    texts = [
        "apple = K",
        "words:\na = A",
        "words:\n" + "a = A\n" * 13,
        f"words:\n{'x' * 1100}",
        f"weights:\n{'x' * 1100}",
    ]
    edits = [Edit(task.id, number, "", text) for number, text in enumerate(texts)]
    found = [what for _, what in loop.applied(domain, [task], edits)]
    reasons = [what.reason if isinstance(what, Rejected) else "" for what in found]
    assert "does not begin with" in reasons[0] and "13 lines under 'words:', over 12" in reasons[2]
    assert "make a prompt of 11" in reasons[3] and "leaves 1018" in reasons[3]
    assert (reasons[1], reasons[4]) == ("", "")  # what is too long to train on is found by the engine


def test_the_policy_reads_the_case_and_where_it_has_one_way_its_marker(build):
    free = build()
    (task,) = free.tasks("heldout", 1)
    assert free.edit_prompt(task) == task.context
    for way in ("words", "weights"):
        assert build(domain__way=way).edit_prompt(task) == f"{task.context}{way}:\n"


def test_with_one_way_the_lines_of_the_other_are_dropped(build):
    words, weights = (build(domain__way=way) for way in ("words", "weights"))
    (task,) = words.tasks("heldout", 1)
    assert words.apply(task, "apple = K\nweights:\npug = R") == ContextEdit("apple = K")
    found = weights.apply(task, "pug = R\nteas = B\nwords:\napple = K")
    assert type(found) is Update and found.sequences == LINES
    with pytest.raises(InvalidEdit, match="occurs twice"):
        words.apply(task, "words:\napple = K")
    assert words.describe(task, "apple = K\nweights:\npug = R") == {"rule: words": 1}


def test_narrower_forms_are_those_that_the_config_makes_and_have_none_themselves(build):
    domain = build()
    assert isinstance(domain, Narrowed)
    forms = domain.narrowed()
    assert forms == {f"{way} only": build_with(build, way, domain) for way in ("words", "weights")}
    assert all(not form.narrowed() for form in forms.values())


def build_with(build, way, domain):
    return dataclasses.replace(build(domain__way=way), student=domain.student)


def test_a_perfect_author_has_a_row_for_each_way_and_one_for_the_best(build):
    domain = build()
    tasks = domain.tasks("heldout", 3)
    best = [domain.apply(task, domain.oracle(task)) for task in tasks]
    assert [type(what) for what in best] == [ContextEdit, Update, ContextUpdate]
    assert isinstance(domain, Referenced)
    rows = domain.references(tasks)
    assert list(rows) == ["oracle, words only", "oracle, weights only"]
    for way, row in zip(("words", "weights"), rows.values(), strict=True):
        narrow = build(domain__way=way)
        assert row == [narrow.apply(task, narrow.oracle(task)) for task in tasks]
        assert narrow.references(tasks) == {}
    assert [len(what.context.split("\n")) for what in rows["oracle, words only"]][1:] == [12, 12]


def test_questions_follow_the_context_and_answers_are_compared_without_spaces(build):
    domain = build()
    task = domain.tasks("heldout", 1)[0]
    assert domain.questions(task, "") == domain.source.questions(task, ())
    assert domain.questions(task, "a\nb") == domain.source.questions(task, ["a", "b"])
    answers = [f" {question.answers[0]} " for question in task.questions]
    answers[1] += "x"
    assert domain.grade([task], [answers]) == [[1.0, 0.0, *[1.0] * 14]]


def test_reports_have_the_way_by_kind_of_task_and_the_reward_of_each_kind(build):
    domain = build()
    tasks = domain.tasks("heldout", 4)
    assert [domain.describe(task, BOTH) for task in tasks[:3]] == [
        {"rule: both": 1}, {"table: both": 1}, {"mixed: both": 1}
    ]  # fmt: skip
    assert domain.describe(tasks[1], "pug = R") == {"table: invalid": 1}
    assert isinstance(domain, Recorded)
    outcomes = [Outcome(Edit(task.id, 0, "", ""), reward) for task, reward in zip(tasks, (1, 0.5, 0, 0.5), strict=True)]
    assert domain.numbers(outcomes) == {"reward, rule": 0.75, "reward, table": 0.5, "reward, mixed": 0.0}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"domain__way": "both"}, "config.domain.way is 'both'; it must be one of free, words, weights"),
        ({"domain__most_words": "0"}, "config.domain.most_words is 0"),
        ({"data__source": "absent"}, "config.data.source"),
        ({"inner__targets": "x_proj"}, "x_proj"),
    ],
)
def test_a_field_that_cannot_be_used_is_named(build, changes, message):
    with pytest.raises(UserError, match=message):
        build(**changes)
