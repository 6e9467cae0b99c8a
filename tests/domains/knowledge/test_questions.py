"""Questions that the policy writes: parsing, answering, dropping, and what rounds and the evaluation ask."""

import json

import pytest

from selfadapt import Question, Task, load_model
from selfadapt.checkpoint.units import DurableUnits
from selfadapt.config import load_config
from selfadapt.defaults import experiment, resolve
from selfadapt.domains.knowledge import Passages, make
from selfadapt.domains.knowledge.questions import DROPPED, parse_questions
from selfadapt.domains.tiny import world
from selfadapt.errors import UserError
from selfadapt.experiment import train
from selfadapt.files import read_jsonl
from selfadapt.models.policy import Policy, State
from selfadapt.telemetry.progress import silent

GIVEN = (Question("Given?", ("yes",)),)
TASKS = tuple(Task(name, f"About {name}.", GIVEN, name.upper()) for name in ("a", "b", "c", "d"))
HELDOUT = Task("held", "About held.", GIVEN, "HELD")


@pytest.fixture(scope="module")
def tiny():
    return load_model("tiny")


def make_domain(model, tasks=TASKS, **fields):
    """Returns the domain with written questions about some passages, all in one round."""
    config = experiment()
    config.domain.questions = "written"
    config.rounds, config.contexts, config.evaluation.contexts = 1, len(tasks), 1
    config.domain.written.samples = 2
    for name, value in fields.items():
        *groups, leaf = name.split("__")
        group = config
        for part in groups:
            group = group[part]
        group[leaf] = value
    return make(resolve(config), model, source=Passages("here", tasks, (HELDOUT,)))


class Script:
    """Replaces `generate`: the texts of each passage by its title, then the answer to each question."""

    def __init__(self, texts, answers=None):
        self.texts, self.answers, self.calls = texts, answers or {}, []

    def __call__(self, model, prompts, **options):
        self.calls.append((prompts, options))
        if "num_samples" in options:
            return [self.texts.get(prompt.partition("\n")[0], [""] * options["num_samples"]) for prompt in prompts]
        return [
            self.answers.get(prompt.partition("Question: ")[2].removesuffix(" Answer:"), " so") for prompt in prompts
        ]


@pytest.fixture
def scripted(monkeypatch):
    def use(*arguments):
        script = Script(*arguments)
        monkeypatch.setattr("selfadapt.domains.knowledge.questions.generate", script)
        return script

    return use


def prepared(domain, model):
    policy = Policy(model)
    return domain.prepare(State(policy, policy), silent)


@pytest.mark.parametrize(
    ("text", "questions", "without"),
    [
        ("Question: Who? Answer: Ada", ["Who?"], 0),
        ("Question 1: Who is it?\nAnswer: Ada\n\nQuestion 2: When?\nA: Now", ["Who is it?", "When?"], 0),
        ("1. Who?\n2) When?\n- Why? A: So.\nQ3: Where?", ["Who?", "When?", "Why?", "Where?"], 0),
        ("Who said: Vitamin A: what? Answer: why?", ["Who said: Vitamin A: what?"], 0),
        ("3.5 of whom?\nWho? Ada, I think.", ["3.5 of whom?", "Who?"], 0),
        ("Question: Name him.\nThe sky.\n?\nQuestion: Whe", [], 4),
        ("\n  \nAnswer: Ada", [], 0),
    ],
)
def test_questions_are_found_in_lines_with_or_without_headings_and_answers(text, questions, without):
    assert parse_questions(text) == (questions, without)


def test_different_questions_are_answered_with_the_passage_and_others_are_dropped_with_counts(tiny, scripted):
    texts = [
        " Why? Answer: wrong\nThe sky is green.",
        f" why\nQuestion: When?\nQuestion: WHY? no\nQuestion: {'x ' * 1200}?",
    ]
    script = scripted(
        {"A": [*texts[:1], texts[1] + "\nQuestion: Where?\nQuestion: How?"]}, {"Why?": " so\nmore", "When?": " \n"}
    )
    domain = prepared(make_domain(tiny, TASKS[:1], domain__written__most=3), tiny)
    (task,) = domain.tasks("train", 1)
    assert [(each.question, each.answers) for each in task.questions] == [("Why?", ("so",)), ("Where?", ("so",))]
    (first, sampling), (asked, answering) = script.calls
    assert first == ["A\nAbout a.\nNotes:\nQuestion:"]
    assert (sampling["num_samples"], sampling["temperature"], sampling["ids"]) == (2, 0.7, ["questions a"])
    assert asked == [f"A\nAbout a.\nQuestion: {word}? Answer:" for word in ("Why", "When", "Where")]
    assert "temperature" not in answering and answering["stop"] == ("\n",)
    (about,) = domain.artifacts()["questions.json"]["passages"]
    # "Question: why" and the sky are no questions; "WHY? no" is the first again; x is too long; How is the fourth.
    assert about["dropped"] == dict(zip(DROPPED, (2, 1, 1, 1, 1), strict=True))
    assert about["given"] == [{"question": "Given?", "answers": ["yes"]}]


def test_rounds_ask_written_questions_and_leave_out_passages_without_any_and_the_evaluation_asks_the_given(
    tiny, scripted
):
    scripted({title: [f" Who is {title}?", ""] for title in "ABD"})
    domain = make_domain(tiny)
    assert all(task.questions == GIVEN for task in domain.tasks("train", 4))  # before they are written
    domain = prepared(domain, tiny)
    found = {task.id: [each.question for each in task.questions] for task in domain.tasks("train", 4)}
    assert found == {name: [f"Who is {name.upper()}?"] for name in "abd"}
    assert domain.tasks("heldout", 1) == [HELDOUT]
    counts = domain.artifacts()["questions.json"]["counts"]
    assert (counts["passages"], counts["passages without a question"], counts["questions"]) == (4, 1, 3)
    assert json.loads(json.dumps(counts)) == counts
    prompt = domain.questions(next(task for task in domain.tasks("train", 4) if task.id == "a"), "")
    assert prompt == ["A\nQuestion: Who is A? Answer:"]  # without the passage


def test_a_round_without_any_question_is_an_error_that_names_what_to_change(tiny, scripted):
    scripted({})
    with pytest.raises(UserError, match=r"no usable question about any of the 4 passages .* config\.domain\.written"):
        prepared(make_domain(tiny), tiny)


def test_nothing_is_written_again_when_a_run_resumes(tiny, scripted, tmp_path):
    texts = {title: [f" Who is {title}? Answer: x", " When?"] for title in "ABCD"}
    domain, found = make_domain(tiny), []
    for calls in (2, 0):
        script = scripted(texts, {"When?": " now"})
        with DurableUnits(tmp_path, 300.0, lambda path, reason: None).active():
            found.append(prepared(domain, tiny))
        assert len(script.calls) == calls
    assert found[0].written == found[1].written


def test_given_questions_are_left_as_they_are(tiny, scripted):
    script = scripted({})
    domain = make_domain(tiny, domain__questions="given")
    assert prepared(domain, tiny) is domain and domain.artifacts() == {} and not script.calls


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"domain__questions": "own"}, r"config\.domain\.questions is 'own'; it must be one of given, written"),
        ({"domain__written__samples": 0}, r"config\.domain\.written\.samples is 0; it must be at least 1"),
        ({"domain__written__most": -1}, r"config\.domain\.written\.most is -1"),
        ({"domain__written__temperature": float("nan")}, r"config\.domain\.written\.temperature is nan"),
        ({"domain__written__top_p": 0.0}, r"config\.domain\.written\.top_p is 0\.0"),
        ({"domain__written__prompt": "question"}, "no edit prompt 'question'; did you mean 'questions'"),
        ({"domain__written__prompt": "q.txt"}, r"config\.domain\.written\.prompt: q\.txt: the prompt template"),
        ({"reward": "proxy"}, r"config\.reward is 'proxy', which asks no questions"),
    ],
)
def test_a_field_that_cannot_be_used_is_named(tiny, fields, message):
    with pytest.raises(UserError, match=message):
        make_domain(tiny, **fields)


def test_a_passage_too_long_for_its_questions_is_named_or_left_out(tiny):
    with pytest.raises(UserError, match=r"config\.domain\.written\.max_new_tokens=1020 the model's context of 1024"):
        make_domain(tiny, domain__written__max_new_tokens=1020).tasks("train", 1)


def write(path, name, questions):
    records = [{"title": f"{name}{i}", "context": f"{name} {i}.", "questions": questions} for i in range(2)]
    (path / f"{name}.json").write_text(json.dumps(records))
    return str(path / f"{name}.json")


def test_passages_to_train_on_need_no_questions_and_held_out_ones_do(tiny, tmp_path):
    train_on = write(tmp_path, "mine", [])
    heldout = write(tmp_path, "theirs", [{"question": "Who?", "answer": "he"}])

    def build(**fields):
        config = experiment()
        config.data.path, config.evaluation.contexts = train_on, 1
        config.update(fields)
        return make(resolve(config), tiny)

    with pytest.raises(UserError, match=r"mine\.json: record 0: 'questions' is empty"):
        build(data={"eval_path": heldout})
    written = {"domain": {"questions": "written"}}
    with pytest.raises(UserError, match=r"is held out and has no questions; name .* config\.data\.eval_path"):
        build(**written)
    domain = build(**written, data={"eval_path": heldout})
    assert [task.questions for task in domain.tasks("train", 2)] == [(), ()]
    assert domain.tasks("heldout", 1)[0].questions[0].question == "Who?"


@pytest.mark.slow
def test_a_run_of_the_embedded_model_learns_from_questions_that_it_answers_rightly(tmp_path):
    config = load_config("seal/self_written")
    config.rounds, config.contexts, config.edits, config.evaluation.contexts = 1, 3, 2, 2
    config.evaluation.controls = False
    train(config, tmp_path)
    found = json.loads((tmp_path / "questions.json").read_text())
    assert found["counts"]["passages"] == 3 and found["counts"]["questions"] >= 9
    right = 0
    for about in found["passages"]:
        values = dict.fromkeys(each["answers"][0] for each in about["given"])
        right += sum(each["answer"] in values for each in about["written"])
    assert right >= 0.8 * found["counts"]["questions"]
    by_task = {about["task"]: [each["question"] for each in about["written"]] for about in found["passages"]}
    for edit in read_jsonl(tmp_path / "edits.jsonl"):
        given = [each.question for each in world.task(edit["task"]).questions]
        assert edit["questions"] == (by_task[edit["task"]] if edit["phase"] == "train" else given)
    assert "What the policy asked" in (tmp_path / "report.html").read_text()
