"""Continued pretraining on a random model of the tiny world, against `adapt` and `finetune` of updates made by hand."""

import json
import pathlib

import numpy as np
import pytest

from selfadapt import Update, adapt, generate, load_model, merge, save_peft
from selfadapt.config import load_config
from selfadapt.defaults import resolve
from selfadapt.engine.policy import finetune
from selfadapt.engine.policy.train import Trainer
from selfadapt.errors import InvalidEdit, UserError
from selfadapt.files import read_jsonl, write_json
from selfadapt.models.lora import Adapters
from selfadapt.protocols.pretraining import make, output
from selfadapt.protocols.pretraining.updates import update_seed
from selfadapt.protocols.run import evaluate
from selfadapt.seal.analyze import analyze

ROOT = pathlib.Path(__file__).parents[3]
SMALL = {
    "preset": "tiny",
    "protocol.sizes": "1,3",
    "protocol.singles": "2",
    "protocol.variants": "none,policy",
    "evaluation.contexts": "3",
    "evaluation.edits": "2",
    "inner.epochs": "4",
    "inner.batch_size": "3",
    "inner.learning_rate": "0.01",
    "sampling.max_new_tokens": "12",
}


class Refusing:
    """A domain that refuses the first edit of a passage."""

    def __init__(self, domain, task_id, text):
        self._domain, self._refused = domain, (task_id, text)

    def __getattr__(self, name):
        return getattr(self._domain, name)

    def apply(self, task, text):
        if (task.id, text) == self._refused:
            raise InvalidEdit("not an edit")
        return self._domain.apply(task, text)


pytestmark = pytest.mark.usefixtures("one_stream")


@pytest.fixture(scope="module")
def small_config(model_directory):
    def make_config(**changes):
        overrides = SMALL | {"model": str(model_directory)} | {k.replace("__", "."): v for k, v in changes.items()}
        return resolve(load_config(ROOT / "configs" / "seal" / "continued_pretraining.py", overrides))

    return make_config


@pytest.fixture(scope="module")
def finished(small_config, domain, tmp_path_factory):
    """A finished run: its workdir and what `evaluate` returned."""
    workdir = tmp_path_factory.mktemp("run") / "whole"
    return workdir, evaluate(small_config(), workdir, domain=domain)


@pytest.fixture(scope="module")
def finished_all(small_config, domain, tmp_path_factory):
    """A finished run that trains all weights."""
    workdir = tmp_path_factory.mktemp("run") / "all"
    config = small_config(protocol__train="all", protocol__variants="passage", protocol__warmup_ratio="0.2")
    return workdir, evaluate(config, workdir, domain=domain)


def edits_of(workdir, variant="policy"):
    return [edit for edit in read_jsonl(workdir / "edits.jsonl") if edit["variant"] == variant]


def results(workdir):
    """The files of a run, without the time at which it was started."""
    found = [json.loads(path.read_text()) for path in sorted((workdir / "pretraining").rglob("*.json"))]
    accuracies = json.loads((workdir / "accuracies.json").read_text())
    edits = list(read_jsonl(workdir / "edits.jsonl"))
    return accuracies, edits, [{k: v for k, v in each.items() if k != "timestamp"} for each in found]


def answers_of(model, domain, config, asked, adapters=None):
    """The answers to the questions of each model's tasks, as one list."""
    prompts = [[prompt for task in tasks for prompt in domain.questions(task, "")] for tasks in asked]
    options = dict(max_new_tokens=config.answer.max_new_tokens, stop=tuple(config.answer.stop))
    if adapters is None:
        return generate(model, prompts[0], **options)
    return [text for texts in generate(model, prompts, adapters=adapters, **options) for text in texts]


def accuracies_of(domain, tasks, answers):
    left = iter(answers)
    own = [[next(left) for _ in task.questions] for task in tasks]
    return [float(np.mean(verdicts)) for verdicts in domain.grade(tasks, own)]


def by_hand(domain, config, tasks, edits, label):
    """The update of some passages: every edit as a document, and the passage once."""
    sequences = []
    for task in tasks:
        first, second = (domain.apply(task, edit["text"]).sequences for edit in edits if edit["task"] == task.id)
        assert len(first) == len(second) == 2 and first[1] == second[1] == f"{task.title}\n{task.context}"
        sequences += [*first, second[0]]
    seed = update_seed(config.seed, label, tasks)
    return domain.apply(tasks[0], None).replace(sequences=sequences, seed=seed)


@pytest.mark.slow
def test_one_update_on_n_passages_is_adapt_of_their_sequences(small_config, domain, finished):
    config, (workdir, _) = small_config(), finished
    model, tasks = load_model(config.model), domain.tasks("heldout", 3)
    accuracies = json.loads((workdir / "accuracies.json").read_text())["accuracies"]
    file = json.loads((workdir / "pretraining" / "policy" / "cpt_n3.json").read_text())
    edits = edits_of(workdir)
    texts = generate(
        model,
        [domain.edit_prompt(task) for task in tasks],
        num_samples=2,
        ids=[f"edit 0 {task.id}" for task in tasks],
        seed=config.seed,
        temperature=config.sampling.temperature,
        top_p=config.sampling.top_p,
        max_new_tokens=config.sampling.max_new_tokens,
    )
    assert [edit["text"] for edit in edits] == [text for each in texts for text in each]
    together = adapt(model, [by_hand(domain, config, tasks, edits, "n3")])
    answers = answers_of(model, domain, config, [tasks], together)
    assert answers == file["server_reply"]["adapter_texts"] != file["server_reply"]["baseline_texts"]
    assert accuracies["policy"]["n3"]["after"] == accuracies_of(domain, tasks, answers)
    before = answers_of(model, domain, config, [tasks])
    assert accuracies["policy"]["n3"]["before"] == accuracies_of(domain, tasks, before)
    alone = [adapt(model, [by_hand(domain, config, [task], edits, "n1")]) for task in tasks[:2]]
    found = answers_of(model, domain, config, [[task] for task in tasks[:2]], Adapters.stack(alone))
    assert accuracies["policy"]["n1"]["after"] == accuracies_of(domain, tasks[:2], found)


@pytest.mark.slow
def test_all_weights_are_those_of_finetune_on_the_same_sequences(small_config, domain, finished_all):
    config, (workdir, summary) = small_config(), finished_all
    model, tasks = load_model(config.model), domain.tasks("heldout", 3)
    file = json.loads((workdir / "pretraining" / "passage" / "cpt_n3.json").read_text())
    sequences = [f"{task.title}\n{task.context}" for task in tasks]
    update = domain.apply(tasks[0], None).replace(
        sequences=sequences, seed=update_seed(config.seed, "n3", tasks), warmup_steps=1
    )  # 0.2 of 4 steps, rounded up
    trained = finetune(model, update)
    answers = answers_of(trained.model, domain, config, [tasks])
    assert trained.status == "ok" and file["per_question"]["adapter_texts"] == answers
    assert file["per_question"]["baseline_texts"] != answers
    row = summary["pretraining"][0]["sizes"][1]
    assert (row["sequences"], row["optimizer_steps"]) == (3, 4)
    assert (row["loss_first"], row["loss_last"]) == (
        pytest.approx(trained.losses[0]),
        pytest.approx(trained.losses[-1]),
    )
    assert (file["args"]["warmup_ratio"], file["k_completions"], file["train_sequences"]) == (0.2, 0, 3)


@pytest.mark.slow
def test_the_summary_the_page_and_seals_files_follow_from_the_accuracies(finished):
    workdir, summary = finished
    accuracies = json.loads((workdir / "accuracies.json").read_text())["accuracies"]
    none, policy = summary["pretraining"]
    for row in (none, policy):
        for each, label in zip(row["sizes"], ("n1", "n3"), strict=True):
            own = accuracies[row["name"]][label]
            assert each["accuracy"]["mean"] == pytest.approx(np.mean(own["after"]))
            assert each["gain"]["mean"] == pytest.approx(np.mean(np.subtract(own["after"], own["before"])))
    assert accuracies["none"]["n3"]["after"] == accuracies["policy"]["n3"]["before"]
    assert [each["size"] for each in policy["sizes"]] == [1, 3] and policy["sizes"][1]["sequences"] == 9
    pair = summary["paired"][1]
    difference = np.mean(np.subtract(accuracies["policy"]["n3"]["after"], accuracies["none"]["n3"]["after"]))
    assert (pair["a"], pair["b"], pair["size"], pair["n"]) == ("policy", "none", 3, 3)
    assert pair["difference"] == pytest.approx(difference)
    analysis = analyze([workdir / "pretraining" / name / "cpt_n3.json" for name in ("none", "policy")])
    means = {(name, what): each.mean for name, what, each in analysis.rows}
    assert means["cpt_n3#2", "adapted"] == pytest.approx(policy["sizes"][1]["over_questions"])
    assert means["cpt_n3", "adapted"] == means["cpt_n3#2", "baseline"] and not analysis.disagreements
    events = [event for event in read_jsonl(workdir / "metrics.jsonl") if event["event"] == "learned"]
    assert [(event["variant"], event["size"]) for event in events] == [
        (name, size) for name in ("none", "policy") for size in (1, 3)
    ]
    page = (workdir / "report.html").read_text()
    assert page.count('aria-label="Accuracy by passages') == 2 and "<script" not in page


@pytest.mark.slow
def test_an_interrupted_run_resumes_to_the_same_result(small_config, domain, finished, tmp_path, monkeypatch):
    real, trained = output.event, []

    def stopping(writer, variant, learned):
        real(writer, variant, learned)
        if (variant, learned.subset.size) == ("policy", 1):
            raise KeyboardInterrupt

    def counting(model, updates, **options):
        trained.append(len(updates))
        return adapt(model, updates, **options)

    monkeypatch.setattr(output, "event", stopping)
    with pytest.raises(KeyboardInterrupt):
        evaluate(small_config(), tmp_path, domain=domain)
    monkeypatch.setattr(output, "event", real)
    monkeypatch.setattr("selfadapt.protocols.pretraining.learning.adapt", counting)
    evaluate(small_config(), tmp_path, domain=domain)
    assert trained == [1] and results(tmp_path) == results(finished[0])
    assert not list((tmp_path / "checkpoints" / "arrays").iterdir())


@pytest.mark.slow
def test_all_weights_resume_in_the_middle_of_their_training(small_config, domain, finished_all, tmp_path, monkeypatch):
    real, taken = Trainer.step, []

    def step(*arguments, **options):
        if len(taken) == 10:  # 4 steps of each single passage, and 2 of the three together
            raise KeyboardInterrupt
        taken.append(1)
        return real(*arguments, **options)

    changes = dict(protocol__train="all", protocol__variants="passage", protocol__warmup_ratio="0.2")
    config = small_config(**changes, checkpoint__every_seconds="0.0")
    monkeypatch.setattr(Trainer, "step", step)
    with pytest.raises(KeyboardInterrupt):
        evaluate(config, tmp_path, domain=domain)
    taken.clear()
    evaluate(config, tmp_path, domain=domain)
    assert len(taken) == 2 and results(tmp_path) == results(finished_all[0])
    assert not list((tmp_path / "checkpoints" / "arrays").iterdir())


@pytest.mark.slow
def test_an_edit_that_is_refused_is_left_out_and_counted(small_config, domain, finished, tmp_path):
    first = edits_of(finished[0])[0]
    bad = Refusing(domain, first["task"], first["text"])
    config = small_config(protocol__variants="policy", protocol__sizes="3")
    summary = evaluate(config, tmp_path, domain=bad)
    (row,) = summary["pretraining"][0]["sizes"]
    assert row["rejected"] == {"not an edit": 1} and row["failed"] == {} and row["sequences"] == 8
    assert [edit["status"] for edit in edits_of(tmp_path)] == ["not an edit", *["ok"] * 5]
    assert "1 edits not applied: not an edit" in (tmp_path / "report.html").read_text()


@pytest.mark.slow
def test_passages_oracles_and_edits_of_files_are_variants_and_the_trained_policy_learns_its_own(
    small_config, domain, model_directory, tmp_path
):
    tasks = domain.tasks("heldout", 3)
    records = [
        {
            "title": task.title,
            "context": task.context,
            "questions": [{"question": each.question, "answer": each.answers[0]} for each in task.questions],
            "completions": [f"note {n}", "another", "a third"],
        }
        for n, task in enumerate(tasks)
    ]
    write_json(tmp_path / "given.json", records)
    model = load_model(model_directory)
    adapter = adapt(model, [Update(["text to learn"], epochs=3, learning_rate=0.05)])
    save_peft(adapter, tmp_path / "adapter")
    config = small_config(
        protocol__sizes="3",
        protocol__variants="passage,oracle,policy",
        protocol__policy=str(tmp_path / "adapter"),
        evaluation__edits_from=f"GPT={tmp_path / 'given.json'}",
    )
    made = make(config, domain)
    assert [pair[0].text for pair in made.given["GPT"]][:4] == ["note 0", "another", "note 1", "another"]
    untrained, policy = (each.params["layers"]["q_proj"] for each in made.models)
    assert (untrained == model.params["layers"]["q_proj"]).all()
    assert (policy == merge(model, adapter).params["layers"]["q_proj"]).all()
    summary = evaluate(config, tmp_path / "run", domain=domain)
    rows = {row["name"]: row["sizes"][0] for row in summary["pretraining"]}
    assert {name: row["sequences"] for name, row in rows.items()} == {"passage": 3, "oracle": 6, "policy": 9, "GPT": 9}
    texts = {
        name: json.loads((tmp_path / "run" / "pretraining" / name / "cpt_n3.json").read_text())["server_reply"]
        for name in rows
    }
    assert texts["passage"]["baseline_texts"] == texts["GPT"]["baseline_texts"] != texts["policy"]["baseline_texts"]
    assert [edit["text"] for edit in edits_of(tmp_path / "run", "oracle")] == [domain.oracle(task) for task in tasks]
    assert {(pair["a"], pair["b"]) for pair in summary["paired"]} == {
        ("policy", "passage"),
        ("oracle", "policy"),
        ("policy", "GPT"),
    }


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(protocol__sizes="1,4"), "config.protocol.sizes has 4, and config.evaluation.contexts takes 3"),
        (dict(protocol__singles="4"), "config.protocol.singles is 4"),
        (dict(protocol__train="some"), "config.protocol.train is 'some'; it must be one of lora, all"),
        (dict(protocol__variants="policy,polcy"), "'polcy'; a variant is one of none, passage"),
        (dict(protocol__variants="untrained"), "config.protocol.policy names none"),
        (dict(protocol__warmup_ratio="1.0"), "config.protocol.warmup_ratio is 1.0"),
        (dict(protocol__questions="-1"), "config.protocol.questions is -1"),
        (dict(protocol__name="pretrainin"), "did you mean 'pretraining'"),
        (dict(evaluation__edits="0"), "config.evaluation.edits is 0"),
        (dict(evaluation__edits_from="policy=edits.json"), "'policy' is a variant's name"),
        (dict(protocol__train="all", domain__padding="seal"), "config.domain.padding hides tokens"),
        (dict(protocol__policy="nowhere"), "nowhere holds no policy"),
    ],
)
def test_bad_input_is_named_before_anything_is_written(small_config, tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        evaluate(small_config(**changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()
