"""The paper configs, dry: every batch shape of the published settings on a shrunken model."""

import json
import pathlib

import pytest

from selfadapt import load_model, loop
from selfadapt.config import load_config
from selfadapt.defaults import resolve
from selfadapt.domains import make_domain
from selfadapt.experiment import make_settings, train
from selfadapt.files import read_jsonl
from selfadapt.outer import make_outer
from tests.worlds import random_world_model

CONFIG = pathlib.Path(__file__).parent.parent / "configs" / "seal" / "paper" / "knowledge_qwen2p5_7b.py"


@pytest.fixture
def dry(tmp_path, monkeypatch):
    """The config with a random model of 2 layers, a few short passages, and shorter texts; all else as published."""
    for name in ("train", "eval"):
        records = [
            {
                "title": f"{name} {i}",
                "context": "It is old. " * (i + 1),
                "questions": [{"question": "How is it?", "answer": "old"}, {"question": "Is it new?", "answer": "no"}],
            }
            for i in range(3)
        ]
        (tmp_path / f"{name}.json").write_text(json.dumps(records))
    monkeypatch.setenv("OPENAI_API_KEY", "not-a-key")
    return {
        "model": str(random_world_model(tmp_path / "model", max_position_embeddings=2048)),
        "data.path": str(tmp_path / "train.json"),
        "data.eval_path": str(tmp_path / "eval.json"),
        "contexts": "2",
        "evaluation.contexts": "2",
        "rounds": "1",
        "sampling.max_new_tokens": "48",
        "answer.max_new_tokens": "8",
        "dtype": "float32",
    }


def test_the_published_settings_are_what_is_run(dry):
    published = resolve(load_config(CONFIG))
    assert (published.rounds, published.contexts, published.edits, published.inner_runs) == (2, 50, 5, 3)
    assert (published.sampling.temperature, published.sampling.top_p) == (1.0, 0.95)
    assert published.sampling.max_new_tokens == 8192 and published.evaluation.contexts == 200
    config = resolve(load_config(CONFIG, dry | {"grader.name": "endpoint"}))
    domain = make_domain(config, load_model(config.model))
    (task,) = domain.tasks("heldout", 1)
    update = domain.apply(task, "One line.\nAnother.")
    assert update.sequences == tuple(f"{task.title}\n{text}" for text in ("One line.", "Another.", task.context))
    inner = (update.rank, update.alpha, update.targets, update.learning_rate, update.epochs, update.batch_size)
    assert inner == (32, 64, ("q_proj", "v_proj"), 1e-3, 10, 1)
    assert (update.schedule, update.warmup_steps, update.max_grad_norm, update.weight_decay) == ("linear", 0, 1.0, 0.0)
    outer = make_outer(config).training
    assert (outer.rank, outer.alpha, outer.targets, outer.learning_rate) == (64, 128.0, "all-linear", 3e-4)
    assert (outer.epochs, outer.batch_size) == (2, 10)


def test_every_batch_shape_of_a_round_is_built_on_a_shrunken_model(dry, tmp_path):
    offline = {f"grader.{field}": "None" for field in ("url", "model", "api_key_env", "cache")}
    config = load_config(CONFIG, dry | offline | {"grader.name": "containment", "edits": "2"})
    summary = train(config, tmp_path / "run")
    assert [row["name"] for row in summary["ladder"]] == ["none", "passage", "untrained", "round1", "oracle"]
    edits = [edit for edit in read_jsonl(tmp_path / "run" / "edits.jsonl") if edit["phase"] == "train"]
    assert len(edits) == 2 * 2
    assert all(len(edit["verdicts"]) == 3 * 2 for edit in edits if edit["status"] == "ok")


def test_seals_padding_can_be_chosen_for_every_update(dry):
    config = resolve(load_config(CONFIG, dry | {"domain.padding": "seal"}))
    model = load_model(config.model)
    domain = make_domain(config, model)
    tasks = domain.tasks("heldout", 1)
    assert all(len(sequence.ids) == 2048 for sequence in domain.apply(tasks[0], "A line.").sequences)
    assert make_settings(config).inner_runs == 3 and loop.applied(domain, tasks, []) == []
