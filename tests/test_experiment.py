"""The outer loop from config to report, on a random model of the tiny world: files, resume, controls, bad input."""

import json
import pathlib

import jax.numpy as jnp
import numpy as np
import pytest

from selfadapt import Update, load_model, loop
from selfadapt.config import ConfigError, load_config
from selfadapt.defaults import resolve
from selfadapt.domains import make_domain
from selfadapt.errors import UserError
from selfadapt.experiment import make_settings, train
from selfadapt.files import read_jsonl
from selfadapt.models.policy import Policy, State
from selfadapt.outer import Report, make_outer
from selfadapt.outer.controls import shuffled
from selfadapt.types import ContextEdit, Edit, Outcome
from tests.worlds import random_world_model

ROOT = pathlib.Path(__file__).parent.parent
SMALL = {
    "preset": "tiny",
    "inner.epochs": "2",
    "domain.split": "document",  # few shapes, and so few programs to compile
    "domain.max_segments": "1",
    "contexts": "3",
    "edits": "2",
    "evaluation.contexts": "3",
    "sampling.max_new_tokens": "24",
    "outer.rest_em.select": "best",
}


@pytest.fixture(scope="module")
def model_directory(tmp_path_factory):
    return random_world_model(tmp_path_factory.mktemp("world") / "model")


def small_config(model_directory, **changes):
    overrides = SMALL | {"model": str(model_directory)} | {k.replace("__", "."): str(v) for k, v in changes.items()}
    return resolve(load_config(ROOT / "configs" / "quickstart.py", overrides))


@pytest.fixture(scope="module")
def finished(model_directory, tmp_path_factory):
    """A finished run: its workdir and what `train` returned."""
    workdir = tmp_path_factory.mktemp("run") / "whole"
    return workdir, train(small_config(model_directory, telemetry__peak_flops=1e12), workdir)


def test_a_run_writes_everything_that_it_promises(finished):
    workdir, summary = finished
    assert json.loads((workdir / "summary.json").read_text())["ladder"] == summary["ladder"]
    assert [row["name"] for row in summary["ladder"]] == ["none", "passage", "untrained", "round1", "round2", "oracle"]
    assert all(row["n"] == 3 for row in summary["ladder"])
    assert {"a", "b", "difference", "low", "high"} <= set(summary["paired"][0])
    assert (summary["paired"][0]["a"], summary["paired"][0]["b"]) == ("round2", "untrained")
    assert summary["seed"] == 0 and "jax" in summary["versions"] and summary["timings"]
    for name in ("config.json", "report.html", "metrics.jsonl", "checkpoints", "policy/model.safetensors"):
        assert (workdir / name).exists(), name
    load_model(workdir / "policy")


def test_every_edit_is_recorded_with_what_became_of_it(finished):
    workdir, _ = finished
    edits = list(read_jsonl(workdir / "edits.jsonl"))
    trained = [edit for edit in edits if edit["phase"] == "train"]
    assert len(trained) == 2 * 3 * 2
    for edit in trained:
        assert edit["sequences"][-1].endswith(edit["context"])
        assert len(edit["answers"]) == len(edit["verdicts"]) == len(edit["questions"]) == 6
        assert edit["reward"] == pytest.approx(np.mean(edit["verdicts"]))
        assert edit["policy_version"] == edit["round"] - 1
    for number in (1, 2):  # the best of each passage; a random model may leave an edit empty
        assert sum(edit["selected"] for edit in trained if edit["round"] == number) <= 3
    rounds = [{edit["task"] for edit in trained if edit["round"] == number} for number in (1, 2)]
    assert not rounds[0] & rounds[1]  # other passages each round
    assert not (rounds[0] | rounds[1]) & {edit["task"] for edit in edits if edit["phase"] == "eval"}


def test_every_phase_and_round_is_measured(finished):
    events = list(read_jsonl(finished[0] / "metrics.jsonl"))
    phases = [event for event in events if event["event"] == "phase"]
    names = [phase["phase"] for phase in phases if phase["label"] == "round 1"]
    assert names == ["baseline", "sample", "apply and score", "improve"]
    assert all(phase["mfu"] > 0 for phase in phases if phase["phase"] in names)
    start, *rounds = [event for event in events if event["event"] == "telemetry"]
    assert [event["round"] for event in (start, *rounds)] == [0, 1, 2]
    assert start["edits"] == {"scored": 4 * 3, "sampled": 3}  # none, passage, oracle and the untrained policy
    assert all(event["edits"] == {"scored": 3 + 3 * 2 + 3, "sampled": 3 * 2 + 3} for event in rounds)


def comparable(workdir):
    summary = json.loads((workdir / "summary.json").read_text())
    parts = {name: summary[name] for name in ("ladder", "extras", "paired", "rounds", "invalid")}
    return parts, (workdir / "edits.jsonl").read_bytes(), (workdir / "policy" / "model.safetensors").read_bytes()


@pytest.mark.slow
def test_a_run_stopped_by_ctrl_c_goes_on_to_the_same_result(finished, model_directory, tmp_path, monkeypatch):
    config, workdir = small_config(model_directory), tmp_path / "run"
    real = loop.run_round

    def interrupted(state, domain, tasks, outer, settings, watch):
        def stopping(name, total):
            if state.round == 1 and name == "improve":
                raise KeyboardInterrupt
            return watch(name, total)

        return real(state, domain, tasks, outer, settings, stopping)

    monkeypatch.setattr(loop, "run_round", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(config, workdir)
    assert list(read_jsonl(workdir / "edits.jsonl"))  # what was finished stays readable
    monkeypatch.setattr(loop, "run_round", real)
    train(config, workdir)
    assert comparable(workdir) == comparable(finished[0])


def test_a_workdir_of_another_experiment_is_refused_and_left_alone(finished, model_directory):
    workdir, _ = finished
    before = (workdir / "edits.jsonl").read_bytes()
    with pytest.raises(ConfigError, match=r"belongs to another experiment.*config\.seed is 0 there and 1 here"):
        train(small_config(model_directory, seed=1), workdir)
    assert (workdir / "edits.jsonl").read_bytes() == before


@pytest.mark.slow
def test_an_adapter_that_is_not_merged_is_saved_and_the_student_stays(model_directory, tmp_path):
    config = small_config(model_directory, outer__rest_em__merge="false", rounds=1)
    summary = train(config, tmp_path / "run")
    assert (tmp_path / "run" / "policy" / "adapter_model.safetensors").exists()
    assert "round1 edits on untrained weights" not in [row["name"] for row in summary["extras"]]  # all rows are on them
    assert summary["rounds"][-1]["policy_version"] == 1


@pytest.mark.slow
def test_a_student_of_another_size_is_adapted_and_scored_while_the_policy_is_trained(model_directory, tmp_path):
    student = random_world_model(tmp_path / "student", hidden_size=16, num_attention_heads=1, num_key_value_heads=1)
    changes = {"rounds": 1, "contexts": 2, "evaluation__contexts": 2, "evaluation__controls": "false"}
    config = small_config(model_directory, student=student, **changes)
    adapted, real = [], loop.adapt

    def watched(model, updates, **rest):
        adapted.append(model.config.hidden_size)
        return real(model, updates, **rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "adapt", watched)
        summary = train(config, tmp_path / "run")
    assert set(adapted) == {16}
    assert summary["rounds"][0]["policy_version"] == 1 and not (tmp_path / "run" / "student").exists()
    policy, before = load_model(tmp_path / "run" / "policy"), load_model(model_directory)
    assert policy.config.hidden_size == before.config.hidden_size == 32
    assert np.abs(policy.params["layers"]["q_proj"] - before.params["layers"]["q_proj"]).max() > 0
    edits = [edit for edit in read_jsonl(tmp_path / "run" / "edits.jsonl") if edit["policy"] == "round1"]
    assert edits and {edit["policy_version"] for edit in edits} == {0}  # the version of the student


@pytest.mark.slow
def test_further_references_are_rows_of_the_ladder_with_paired_differences(model_directory, tmp_path):
    changes = {"rounds": 0, "evaluation__contexts": 2, "evaluation__edits": 2, "evaluation__controls": "false"}
    config = small_config(model_directory, **changes, domain__passage_in_prompt="true")
    tasks = make_domain(config, load_model(model_directory)).tasks("heldout", 2)
    questions = [{"question": "What?", "answer": "That"}]
    records = [{"title": task.title, "context": task.context, "questions": questions} for task in tasks]
    path = tmp_path / "edits.json"
    path.write_text(json.dumps([record | {"completions": ["a line", ""]} for record in records]))
    changes |= {"domain__passage_in_prompt": "true", "evaluation__edits_from": f"GPT-4.1={path}"}
    summary = train(small_config(model_directory, **changes), tmp_path / "run")
    names = [row["name"] for row in summary["ladder"]]
    assert names == ["none", "passage", "untrained", "passage in prompt", "GPT-4.1", "oracle"]
    pairs = {(pair["a"], pair["b"]) for pair in summary["paired"]}
    assert {("passage in prompt", "untrained"), ("GPT-4.1", "untrained")} < pairs and (
        "untrained",
        "GPT-4.1",
    ) not in pairs
    edits = [edit for edit in read_jsonl(tmp_path / "run" / "edits.jsonl") if edit["policy"] == "GPT-4.1"]
    assert [edit["text"] for edit in edits] == ["a line", ""] * 2
    assert edits[0]["sequences"] == [f"{tasks[0].title}\na line", f"{tasks[0].title}\n{tasks[0].context}"]
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Passage in the prompt" in page and f"adapted to the edits of {path}" in page
    assert "<dt>Edits written</dt><dd>4</dd>" in page  # the untrained policy's; those of the file are not a policy's


@pytest.mark.slow
def test_with_a_proxy_edits_are_rated_and_only_the_evaluation_adapts(model_directory, tmp_path):
    changes = {"rounds": 1, "contexts": 2, "evaluation__contexts": 2, "evaluation__controls": "false"}
    config = small_config(model_directory, reward="proxy", **changes)
    summary = train(config, tmp_path / "run")
    events = list(read_jsonl(tmp_path / "run" / "metrics.jsonl"))
    phases = [each["phase"] for each in events if each["event"] == "phase" and each["label"] == "round 1"]
    assert phases == ["sample", "rate", "improve"]
    edits = list(read_jsonl(tmp_path / "run" / "edits.jsonl"))
    trained = [edit for edit in edits if edit["phase"] == "train"]
    assert len(trained) == 4 and all(edit["reward"] == edit["proxy"] and not edit["verdicts"] for edit in trained)
    assert all(len(edit["verdicts"]) == 6 and "proxy" not in edit for edit in edits if edit["phase"] == "eval")
    (row,) = summary["rounds"]
    assert row["proxy_mean"] == row["reward_mean"] and row["baseline"] == 0 and "rank_correlation" not in row


def test_an_outer_update_from_python_takes_the_place_of_the_configs(model_directory, tmp_path):
    class Counting:
        def init(self, policy):
            return {"rounds": jnp.zeros((), jnp.int32)}

        def update(self, pytree, state, baselines, outcomes):
            seen.append((int(pytree["rounds"]), len(outcomes), sorted(baselines)))
            return {"rounds": pytree["rounds"] + 1}, state, Report(metrics={"seen": len(outcomes)})

    seen = []
    config = small_config(model_directory, evaluation__controls="false")
    summary = train(config, tmp_path / "run", outer=Counting())
    assert [(number, count) for number, count, _ in seen] == [(0, 6), (1, 6)]
    assert [each["metrics"] for each in summary["rounds"]] == [{"seen": 6}, {"seen": 6}]
    untrained, *others = [row["mean"] for row in summary["ladder"] if row["name"] in ("untrained", "round1", "round2")]
    assert others == [untrained, untrained]


@pytest.mark.slow
def test_a_context_edit_is_scored_without_training(model_directory):
    config = small_config(model_directory)
    model = load_model(model_directory)
    domain, settings = make_domain(config, model), make_settings(config)
    tasks = domain.tasks("heldout", 2)
    student = Policy(model)
    pairs = [(Edit(task.id, 0, "", "memo"), ContextEdit("memo")) for task in tasks]
    mixed = [*pairs, (Edit(tasks[0].id, 1, "", "x"), domain.apply(tasks[0], "x"))]
    outcomes = loop.score(student, domain, tasks, mixed, settings)
    assert [outcome.status for outcome in outcomes] == ["ok"] * 3
    assert outcomes[0].answers == loop.score(student, domain, tasks, pairs[:1], settings)[0].answers
    assert domain.questions(tasks[0], "memo")[0].startswith(f"{tasks[0].title}\nmemo\nQuestion:")


def test_an_edit_that_cannot_be_applied_is_scored_as_the_unadapted_model_and_named(model_directory):
    config = small_config(model_directory)
    model = load_model(model_directory)
    domain, settings = make_domain(config, model), make_settings(config)
    tasks = domain.tasks("heldout", 1)
    bad = domain.apply(tasks[0], "x").replace(learning_rate=float("nan"))
    edit = Edit(tasks[0].id, 0, "", "x")
    student = Policy(model)
    broken, as_it_is = loop.score(student, domain, tasks, [(edit, bad), (edit, domain.unchanged(tasks[0]))], settings)
    assert "learning rate is nan" in broken.status and broken.answers == as_it_is.answers


def test_inner_runs_train_with_seeds_that_all_edits_share(model_directory, monkeypatch):
    config = small_config(model_directory, inner_runs=3)
    model = load_model(model_directory)
    domain, settings = make_domain(config, model), make_settings(config)
    tasks = domain.tasks("heldout", 2)
    seen = []
    real = loop.adapt
    monkeypatch.setattr(loop, "adapt", lambda model, updates, **rest: seen.extend(updates) or real(model, updates))
    pairs = [(Edit(task.id, 0, "", "x"), domain.apply(task, "x")) for task in tasks]
    outcomes = loop.score(Policy(model), domain, tasks, pairs, settings)
    assert [update.seed for update in seen] == [0, 1, 2] * 2
    assert all(len(outcome.verdicts) == 3 * 6 for outcome in outcomes)


def test_shuffling_permutes_rewards_inside_each_task_only():
    outcomes = [Outcome(Edit(f"t{i // 5}", i % 5, "", "x"), reward=float(i)) for i in range(20)]
    mixed = shuffled(outcomes, 0)
    assert [o.edit for o in mixed] == [o.edit for o in outcomes]
    assert [o.reward for o in mixed] != [o.reward for o in outcomes]
    for start in range(0, 20, 5):
        assert sorted(o.reward for o in mixed[start : start + 5]) == [float(i) for i in range(start, start + 5)]


def test_a_policy_that_wrote_nothing_better_stays_as_it_is(model_directory):
    config = small_config(model_directory, outer__rest_em__select="best_improving")
    policy = Policy(load_model(model_directory))
    state = State(policy, policy)
    outcomes = [Outcome(Edit("t", 0, "p", "x"), reward=0.5)]
    _, after, report = make_outer(config).update((), state, {"t": 0.5}, outcomes)
    assert after is state and not report.learned and not report.metrics


def test_mixed_policy_versions_are_refused(model_directory):
    policy = Policy(load_model(model_directory))
    outcomes = [Outcome(Edit("t", i, "p", "x"), reward=0.5, policy_version=i) for i in range(2)]
    with pytest.raises(ValueError, match="mix policy versions"):
        make_outer(small_config(model_directory)).update((), State(policy, policy), {"t": 0.0}, outcomes)


def squad(path, **changes):
    record = {"title": "T", "context": "Some passage.", "questions": [{"question": "What?", "answer": "That"}]}
    path.write_text(json.dumps([record | {"context": f"Passage {i}."} for i in range(8)] + [record | changes]))
    return path


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"data__path": "missing.json"}, "missing.json"),
        ({"outer__rest_em__select": "bset"}, "config.outer.rest_em.select is 'bset'"),
        ({"contexts": 0}, "config.contexts is 0"),
        ({"sampling__temperature": -1}, "temperature"),
        ({"domain__name": "knowlege"}, "did you mean 'knowledge'"),
        ({"domain__prompt": "implication"}, "did you mean 'implications'"),
        ({"grader__name": "exat"}, "did you mean 'exact'"),
        ({"domain__padding": "sael"}, "config.domain.padding"),
        ({"outer__rest_em__targets": "q_prj"}, "q_prj"),
        ({"inner__targets": "q_prj"}, "q_prj"),
        ({"reward": "prox"}, "config.reward is 'prox'; it must be one of inner, proxy, both"),
        ({"rubric__learn_from": "both"}, "config.rubric.learn_from is 'both'; it must be one of inner, proxy"),
        ({"halving": "2,2"}, "config.halving has 2 stages, and 2 edits of a task can be halved 1 times"),
        ({"halving": "0"}, r"config.halving is \(0,\); each stage needs at least 1"),
        ({"halving": "1", "reward": "proxy"}, r"config.halving is \(1,\), which needs rewards of inner runs"),
        ({"outer__rest_em__z": 1.0}, "config.outer.rest_em.z is 1.0, and config.inner_runs 1"),
        ({"reward": "proxy", "rubric__name": "endpoint"}, "config.rubric.model is missing"),
        ({"evaluation__edits_from": "GPT=gpt.json"}, "row 'GPT': gpt.json: there is no such file"),
    ],
)
def test_what_cannot_work_is_said_before_anything_is_computed(model_directory, tmp_path, changes, message):
    with pytest.raises((UserError, ValueError, OSError), match=message):
        train(small_config(model_directory, **changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"context": ""}, "record 8|index 8|8.*context"),
        ({"questions": []}, "question"),
        ({"context": "word " * 1200}, "tokens.*skip_long"),
    ],
)
def test_passages_that_cannot_be_used_are_named(model_directory, tmp_path, changes, message):
    path = squad(tmp_path / "data.json", **changes)
    with pytest.raises((UserError, ValueError), match=message):
        train(small_config(model_directory, data__path=path), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_long_passages_can_be_left_out_and_too_few_are_an_error(model_directory, tmp_path):
    path = squad(tmp_path / "data.json", context="word " * 1200)
    config = small_config(model_directory, data__path=path, data__skip_long="true")
    domain = make_domain(config, load_model(model_directory))
    train_tasks, heldout = domain.tasks("train", 3), domain.tasks("heldout", 3)
    assert not {task.id for task in train_tasks} & {task.id for task in heldout}
    with pytest.raises(UserError, match="has 3 passages for 'heldout', and 9 are needed"):
        domain.tasks("heldout", 9)


@pytest.mark.parametrize("text", ["", "   \n\n ", "word " * 2000, "\x00\ud800 \U0001f600"])
def test_odd_edits_become_updates_that_fit_the_context(model_directory, text):
    model = load_model(model_directory)
    domain = make_domain(small_config(model_directory), model)
    (task,) = domain.tasks("heldout", 1)
    update = domain.apply(task, text)
    assert isinstance(update, Update)
    for sequence in update.sequences:
        ids = sequence.ids if not isinstance(sequence, str) else model.tokenizer(sequence)["input_ids"]
        assert 0 < len(ids) <= model.config.max_position_embeddings


def test_seals_padding_trains_on_pads_that_nothing_sees(model_directory):
    model = load_model(model_directory)
    domain = make_domain(small_config(model_directory, domain__padding="seal"), model)
    (task,) = domain.tasks("heldout", 1)
    (sequence,) = domain.apply(task, None).sequences
    real = len(model.tokenizer(f"{task.title}\n{task.context}")["input_ids"])
    assert len(sequence.ids) == model.config.max_position_embeddings
    assert sequence.mask is None and sum(sequence.attention) == real
    assert set(sequence.ids[real:]) == {model.config.eos_token_ids[0]}
