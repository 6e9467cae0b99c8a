"""The continual protocol on a random model of the tiny world, against merging after each step, one stream at a time."""

import json
import pathlib

import numpy as np
import pytest

from selfadapt import Update, adapt, generate, load_model, merge, save_peft
from selfadapt.config import load_config
from selfadapt.defaults import resolve
from selfadapt.errors import InvalidEdit, UserError
from selfadapt.files import read_jsonl
from selfadapt.protocols.continual import make, output
from selfadapt.protocols.run import evaluate
from selfadapt.seal.results import read_results
from tests.engine.tiny import random_adapters, tiny_model
from tests.worlds import random_world_model

ROOT = pathlib.Path(__file__).parents[3]
PASSAGES = 3
SMALL = {
    "preset": "tiny",
    "inner.epochs": "6",
    "inner.warmup_steps": "0",
    "domain.split": "document",  # few shapes, and so few programs to compile
    "domain.max_segments": "1",
    "sampling.max_new_tokens": "24",
    "protocol.runs": "2",
    "protocol.streams": "1",
    "protocol.passages": str(PASSAGES),
    "protocol.variants": "none,policy",
}


class Failing:
    """A domain in which one passage's update diverges, and another's edit cannot be applied."""

    def __init__(self, domain, diverging, rejected):
        self._domain, self._diverging, self._rejected = domain, diverging, rejected

    def __getattr__(self, name):
        return getattr(self._domain, name)

    def apply(self, task, text):
        update = self._domain.apply(task, text)
        if text is not None and task.id == self._rejected:
            raise InvalidEdit("not an edit")
        return update.replace(learning_rate=1e30) if task.id == self._diverging else update


pytestmark = pytest.mark.usefixtures("one_stream")


@pytest.fixture(scope="module")
def small_config(model_directory):
    def make_config(**changes):
        overrides = SMALL | {"model": str(model_directory)} | {k.replace("__", "."): v for k, v in changes.items()}
        return resolve(load_config(ROOT / "configs" / "seal" / "continual.py", overrides))

    return make_config


@pytest.fixture(scope="module")
def finished(small_config, domain, tmp_path_factory):
    """A finished run: its workdir and what `evaluate` returned."""
    workdir = tmp_path_factory.mktemp("run") / "whole"
    return workdir, evaluate(small_config(), workdir, domain=domain)


def edits_of(workdir, variant="policy"):
    return [edit for edit in read_jsonl(workdir / "edits.jsonl") if edit["variant"] == variant]


def results(workdir):
    names = ["accuracies.json", "edits.jsonl", *(f"retention/policy/continual_{n}.json" for n in ("run0", "overall"))]
    return [(workdir / name).read_bytes() for name in names]


@pytest.mark.slow
def test_each_stream_is_what_merging_every_adapter_into_the_weights_gives(small_config, domain, finished):
    config = small_config()
    answer = dict(max_new_tokens=config.answer.max_new_tokens, stop=tuple(config.answer.stop))
    for stream in make(config, domain).streams:
        model = load_model(config.model)
        expected = {edit["step"]: edit for edit in edits_of(finished[0]) if edit["run"] == stream.run}
        for step, task in enumerate(stream.tasks, start=1):
            (text,) = generate(
                model,
                [domain.edit_prompt(task)],
                ids=[stream.edit_id(step)],
                seed=config.seed,
                temperature=config.sampling.temperature,
                top_p=config.sampling.top_p,
                max_new_tokens=config.sampling.max_new_tokens,
            )
            adapter = adapt(model, [domain.apply(task, text).replace(seed=stream.update_seed(config.seed, step))])
            model = merge(model, adapter)
            assert (text, task.id) == (expected[step]["text"], expected[step]["task"])
            assert generate(model, domain.questions(task, ""), **answer) == expected[step]["answers"]
            asked = [[one, *rest] for one, *rest in (domain.questions(each, "") for each in stream.tasks[:step])]
            texts = [generate(model, prompts, **answer) for prompts in asked]
            verdicts = domain.grade(stream.tasks[:step], texts)
            assert expected[step]["accuracies"] == [sum(own) / len(own) for own in verdicts]


@pytest.mark.slow
def test_the_summary_and_the_files_follow_from_the_answers(finished):
    workdir, summary = finished
    none, policy = summary["retention"]
    edits = edits_of(workdir)
    for step in range(1, PASSAGES + 1):
        own = [edit["accuracies"] for edit in edits if edit["step"] == step]
        assert policy["mean"][step][:step] == pytest.approx([sum(cell) / 2 for cell in zip(*own, strict=True)])
        assert policy["mean"][step][step:] == [None] * (PASSAGES - step)
        assert none["mean"][step][:step] == none["mean"][0][:step]
    assert policy["mean"][0] == none["mean"][0]  # of one model
    assert none["measures"]["forgetting"]["mean"] == 0.0 and policy["failed"] == {}
    learnt = [row[r] for r, row in enumerate(policy["mean"][1:])]
    assert policy["measures"]["just_learnt"]["mean"] == pytest.approx(sum(learnt) / PASSAGES)
    assert [(pair["a"], pair["b"]) for pair in summary["paired"]] == [("policy", "none")] * 3
    overall = read_results(workdir / "retention" / "policy" / "continual_overall.json").content
    assert overall["mean_over_sequences"][0] == pytest.approx(policy["mean"][0])
    assert (overall["n_sequences"], overall["n_datapoints"], overall["dataset"]) == (2, PASSAGES, "tiny_world")
    runs = [read_results(workdir / "retention" / "policy" / f"continual_run{r}.json").content for r in range(2)]
    assert [run["n_sequences"] for run in runs] == [1, 1]


@pytest.mark.slow
def test_every_step_is_an_event_and_the_page_has_a_heat_map_of_each_variant(finished):
    workdir, summary = finished
    events = list(read_jsonl(workdir / "metrics.jsonl"))
    steps = [(event["variant"], event["round"]) for event in events if event["event"] == "step"]
    assert steps == [(name, step) for name in ("none", "policy") for step in range(PASSAGES + 1)]
    assert {event["phase"] for event in events if event["event"] == "phase"} == {"sample", "adapt", "evaluate"}
    page = (workdir / "report.html").read_text()
    assert page.count('aria-label="Retention, policy') == 2  # for wide and narrow screens
    assert "<script" not in page and json.loads((workdir / "summary.json").read_text())["streams"] == summary["streams"]


@pytest.mark.slow
def test_an_interrupted_run_resumes_to_the_same_result(small_config, domain, finished, tmp_path, monkeypatch):
    real, trained = output.event, []

    def stopping(writer, variant, step, row):
        real(writer, variant, step, row)
        if (variant, step) == ("policy", 2):
            raise KeyboardInterrupt

    def counting(model, updates, **options):
        trained.append(len(updates))
        return adapt(model, updates, **options)

    monkeypatch.setattr(output, "event", stopping)
    with pytest.raises(KeyboardInterrupt):
        evaluate(small_config(), tmp_path, domain=domain)
    monkeypatch.setattr(output, "event", real)
    monkeypatch.setattr("selfadapt.protocols.continual.steps.adapt", counting)
    evaluate(small_config(), tmp_path, domain=domain)
    assert trained == [2]  # the last step alone
    assert results(tmp_path) == results(finished[0])
    assert not list((tmp_path / "checkpoints" / "arrays").iterdir())  # adapters are removed when they are not needed
    evaluate(small_config(), tmp_path, domain=domain)  # a finished run is read
    assert trained == [2] and results(tmp_path) == results(finished[0])


@pytest.mark.slow
def test_a_stream_whose_edit_fails_stays_as_it_was_and_harms_no_other(small_config, domain, finished, tmp_path):
    config = small_config()
    failing, other = make(config, domain).streams
    bad = Failing(domain, diverging=failing.tasks[1].id, rejected=failing.tasks[2].id)
    summary = evaluate(config, tmp_path, domain=bad)
    edits = edits_of(tmp_path)
    first, second, third = [edit for edit in edits if edit["run"] == failing.run]
    assert first["status"] == "ok" and second["status"].startswith("diverged") and third["status"] == "not an edit"
    assert third["accuracies"][:2] == second["accuracies"] and second["accuracies"][:1] == first["accuracies"]
    assert sum(summary["retention"][1]["failed"].values()) == 2
    expected = [edit for edit in edits_of(finished[0]) if edit["run"] == other.run]
    assert [edit for edit in edits if edit["run"] == other.run] == expected


def test_passages_and_an_oracles_edits_are_controls(small_config, domain, tmp_path):
    config = small_config(protocol__variants="none,passage,oracle", protocol__passages="1")
    summary = evaluate(config, tmp_path, domain=domain)
    assert [row["name"] for row in summary["retention"]] == ["none", "passage", "oracle"]
    assert [(pair["a"], pair["b"]) for pair in summary["paired"][::3]] == [("passage", "none")]
    for row in summary["retention"]:
        file = read_results(tmp_path / "retention" / row["name"] / "continual_overall.json")
        assert row["mean"] == pytest.approx(np.array(file.content["mean_over_sequences"]))
    assert (tmp_path / "report.html").read_text().count('aria-label="Retention, oracle') == 2
    for stream in make(config, domain).streams:
        (task,) = stream.tasks
        (passage,) = [edit for edit in edits_of(tmp_path, "passage") if edit["run"] == stream.run]
        (oracle,) = [edit for edit in edits_of(tmp_path, "oracle") if edit["run"] == stream.run]
        assert passage["sequences"] == list(domain.apply(task, None).sequences) and passage["text"] == ""
        assert oracle["text"] == domain.oracle(task) and passage["answers"] != []
        assert oracle["sequences"] == list(domain.apply(task, domain.oracle(task)).sequences)


def test_streams_start_from_the_policy_of_a_run_an_adapter_or_a_model(small_config, model_directory, domain, tmp_path):
    model = load_model(model_directory)
    adapter = adapt(model, [Update(["text to learn"], epochs=1)])
    save_peft(adapter, tmp_path / "adapter")
    merge(model, adapter).save(tmp_path / "run" / "policy")
    for path in (tmp_path / "adapter", tmp_path / "run", tmp_path / "run" / "policy"):
        made = make(small_config(protocol__policy=str(path), protocol__variants="policy,untrained"), domain)
        weights = {name: start.params["layers"]["q_proj"] for name, start in made.models.items()}
        assert (weights["untrained"] == model.params["layers"]["q_proj"]).all()
        assert (weights["policy"] == merge(model, adapter).params["layers"]["q_proj"]).all()


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(protocol__passages="0"), "config.protocol.passages is 0"),
        (dict(protocol__streams="-1"), "config.protocol.streams is -1"),
        (dict(protocol__passages="65"), "2 streams of 65 different passages need 130 passages"),
        (dict(protocol__variants="policy,polcy"), "'polcy'; a variant is one of none, passage"),
        (dict(protocol__variants="none,none"), "each once"),
        (dict(protocol__variants="untrained"), "config.protocol.policy names none"),
        (dict(protocol__policy="nowhere"), "config.protocol.policy: nowhere holds no policy"),
        (dict(protocol__name="continua"), "did you mean 'continual'"),
        (dict(sampling__top_p="0.0"), "top_p above 0"),
    ],
)
def test_bad_input_is_named_before_anything_is_written(small_config, tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        evaluate(small_config(**changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_policy_of_other_sizes_is_named(small_config, tmp_path):
    random_world_model(tmp_path / "policy", num_hidden_layers=1)
    with pytest.raises(UserError, match="has num_layers=1, and that of config.model=.* has 2"):
        evaluate(small_config(protocol__policy=str(tmp_path / "policy")), tmp_path / "run")
    other = tiny_model()
    save_peft(random_adapters(other.config, 1), tmp_path / "adapter")
    with pytest.raises(UserError, match="made for another base"):
        evaluate(small_config(protocol__policy=str(tmp_path / "adapter")), tmp_path / "run")
