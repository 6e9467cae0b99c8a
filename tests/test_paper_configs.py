"""The paper configs, dry: every batch shape of the published settings on a shrunken model."""

import json
import pathlib

import pytest

from selfadapt import load_model, loop
from selfadapt.config import load_config
from selfadapt.defaults import resolve
from selfadapt.domains import arc, make_domain
from selfadapt.experiment import make_settings, train
from selfadapt.files import read_jsonl
from selfadapt.outer import make_outer
from selfadapt.protocols import pretraining
from selfadapt.protocols.continual import make
from selfadapt.protocols.run import evaluate
from tests.worlds import random_world_model

FOLDER = pathlib.Path(__file__).parent.parent / "configs" / "seal" / "paper"
CONFIG, ARC = FOLDER / "knowledge_qwen2p5_7b.py", FOLDER / "arc_llama3p2_1b.py"
CONTINUAL = FOLDER / "continual_qwen2p5_7b.py"
PRETRAINING = f"{FOLDER / 'continued_pretraining_qwen2p5_7b.py'}"


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


@pytest.mark.slow
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


@pytest.fixture
def continual_dry(dry):
    """The continual config with a random model, two runs of two streams of two short passages, and shorter texts."""
    few = {"protocol.policy": "", "protocol.runs": "2", "protocol.streams": "2", "protocol.passages": "2"}
    offline = {f"grader.{field}": "None" for field in ("url", "model", "api_key_env", "cache")}
    kept = {name: dry[name] for name in ("model", "sampling.max_new_tokens", "answer.max_new_tokens", "dtype")}
    data = {"data.path": dry["data.eval_path"], "evaluation.contexts": "3", "grader.name": "containment"}
    return kept | data | offline | few


def test_the_published_continual_settings_are_what_is_run(continual_dry):
    published = resolve(load_config(CONTINUAL))
    assert (published.protocol.runs, published.protocol.streams, published.protocol.passages) == (8, 8, 8)
    assert (published.protocol.seed, published.protocol.disjoint, published.data.shuffle) == (42, False, False)
    assert (published.evaluation.contexts, published.protocol.variants) == (2067, ("policy",))
    assert (published.sampling.temperature, published.sampling.top_p) == (1.0, 0.95)
    assert published.sampling.max_new_tokens == 8192 and published.domain.split == "lines"
    protocol = make(resolve(load_config(CONTINUAL, continual_dry)))
    assert len(protocol.streams) == 4 and all(len(stream.tasks) == 2 for stream in protocol.streams)
    titles = [task.title for task in protocol.domain.tasks("heldout", 3)]
    assert titles == ["eval 0", "eval 1", "eval 2"]  # the order of the file
    update = protocol.domain.apply(protocol.streams[0].tasks[0], "One line.")
    inner = (update.rank, update.alpha, update.targets, update.learning_rate, update.epochs, update.batch_size)
    assert inner == (32, 64, ("q_proj", "v_proj"), 1e-3, 10, 1)


@pytest.mark.slow
def test_every_step_of_the_continual_config_runs_on_a_shrunken_model(continual_dry, tmp_path):
    summary = evaluate(load_config(CONTINUAL, continual_dry), tmp_path / "run")
    assert [row["name"] for row in summary["retention"]] == ["policy"]
    assert [cell is None for row in summary["retention"][0]["mean"] for cell in row] == [
        *[False] * 3,
        True,
        *[False] * 2,
    ]
    assert len(list(read_jsonl(tmp_path / "run" / "edits.jsonl"))) == 4 * 2


@pytest.fixture
def pretraining_dry(continual_dry):
    """The config of continued pretraining with a random model, and single and two short passages; shorter texts."""
    kept = {name: value for name, value in continual_dry.items() if not name.startswith("protocol.")}
    return kept | {"protocol.policy": "", "protocol.variants": "passage,policy", "protocol.sizes": "1,2"}


def test_the_published_settings_of_continued_pretraining_are_what_is_run(pretraining_dry):
    v1, v2 = (resolve(load_config(f"{PRETRAINING}:{version}")) for version in ("v1", "v2"))
    assert (v1.protocol.sizes, v1.evaluation.contexts, v1.protocol.train) == ((200,), 200, "lora")
    assert (v1.protocol.questions, v1.protocol.repeat_passage, v1.evaluation.edits) == (0, True, 5)
    assert (v2.protocol.sizes, v2.evaluation.contexts, v2.protocol.train) == ((200, 2067), 2067, "all")
    assert (v2.protocol.questions, v2.protocol.seed, v2.protocol.repeat_passage) == (500, 42, False)
    assert v2.protocol.warmup_ratio == 0.03 and v1.data.shuffle and v2.data.shuffle
    single = {"protocol.singles": "1"}
    for version, expected in (("v1", (1e-3, 3, 4, 2, "linear")), ("v2", (7e-5, 1, 4, 2, "linear"))):
        protocol = pretraining.make(resolve(load_config(f"{PRETRAINING}:{version}", pretraining_dry | single)))
        task = protocol.tasks[0]
        update = protocol.domain.apply(task, "One line.\nAnother.")
        assert update.sequences == (f"{task.title}\nOne line.\nAnother.", f"{task.title}\n{task.context}")
        training = (update.learning_rate, update.epochs, update.batch_size, update.gradient_accumulation)
        assert (*training, update.schedule) == expected
        assert (update.rank, update.alpha, update.targets) == (32, 64, ("q_proj", "v_proj"))
        assert (update.weight_decay, update.max_grad_norm, update.warmup_steps) == (0.0, 1.0, 0)


@pytest.mark.slow
@pytest.mark.parametrize("version", ["v1", "v2"])
def test_continued_pretraining_runs_on_a_shrunken_model(pretraining_dry, tmp_path, version):
    few = {"evaluation.edits": "2", "protocol.singles": "2"}
    summary = evaluate(load_config(f"{PRETRAINING}:{version}", pretraining_dry | few), tmp_path / "run")
    rows = {row["name"]: row["sizes"] for row in summary["pretraining"]}
    assert {name: [each["size"] for each in sizes] for name, sizes in rows.items()} == {
        "passage": [1, 2],
        "policy": [1, 2],
    }
    assert [each["failed"] for sizes in rows.values() for each in sizes] == [{}] * 4
    assert rows["policy"][1]["sequences"] >= (8 if version == "v1" else 6)  # "---" in an edit divides it
    assert len(list(read_jsonl(tmp_path / "run" / "edits.jsonl"))) == 2 + 2 * 2


@pytest.fixture
def arc_dry(tmp_path):
    """The ARC config with a random model of 2 layers and small tasks; all else as published."""
    pairs = [{"input": [[n, 0]], "output": [[0, n]]} for n in (1, 2)]
    paths = {}
    for prefix in ("", "eval_"):
        challenges = {f"{prefix}{n}": {"train": pairs, "test": [{"input": [[n + 3, 0]]}]} for n in range(3)}
        solutions = {f"{prefix}{n}": [[[0, n + 3]]] for n in range(3)}
        for name, value in (("path", challenges), ("solutions", solutions)):
            paths[f"data.{prefix}{name}"] = str(tmp_path / f"{prefix}{name}.json")
            pathlib.Path(paths[f"data.{prefix}{name}"]).write_text(json.dumps(value))
        paths[f"data.{prefix}ids"] = f"{prefix}0,{prefix}1,{prefix}2"
    return paths | {
        "model": str(random_world_model(tmp_path / "model", max_position_embeddings=2048)),
        "contexts": "3",
        "evaluation.contexts": "3",
        "domain.chat": "False",  # the tokenizer has no template
        "sampling.max_new_tokens": "16",
        "answer.max_new_tokens": "8",
        "dtype": "float32",
    }


def test_the_published_arc_settings_are_what_is_run(arc_dry):
    published = resolve(load_config(ARC))
    assert (published.rounds, published.contexts, published.edits, published.inner_runs) == (1, 11, 15, 1)
    assert (published.evaluation.contexts, published.evaluation.edits) == (8, 5)
    assert (len(published.data.ids), len(published.data.eval_ids)) == (11, 8)
    assert (published.sampling.temperature, published.sampling.max_new_tokens) == (0.8, 128)
    config = resolve(load_config(ARC, arc_dry))
    domain = make_domain(config, load_model(config.model))
    (task,) = domain.tasks("heldout", 1)
    update = domain.apply(task, domain.oracle(task))
    assert (update.rank, update.alpha, update.batch_size) == (128, 16.0, 2)
    assert (update.schedule, update.warmup_steps, update.gradient_accumulation) == ("cosine", 11, 1)
    assert (update.learning_rate, update.epochs, update.loss) == (1e-4, 2, "target")
    assert set(update.targets) == {"q_proj", "v_proj", "gate_proj", "down_proj", "up_proj"}
    outer = make_outer(config)
    training = outer.training
    assert outer.select.method == "solved" and (training.rank, training.alpha) == (16, 16.0)
    assert (training.learning_rate, training.epochs, training.batch_size) == (5e-5, 8, 5)
    assert training.schedule == "cosine"


@pytest.mark.slow
def test_a_round_of_arc_has_all_rows_and_files_on_a_shrunken_model(arc_dry, tmp_path):
    small = {"edits": "1", "evaluation.edits": "1", "evaluation.search": "1", "evaluation.controls": "False"}
    few_shapes = {"domain.max_examples": "1", "domain.max_tokens": "128", "domain.permutations": "1"}
    grid = {"domain.rates": "1e-3,", "domain.epochs": "1,"}
    summary = train(load_config(ARC, arc_dry | small | few_shapes | grid), tmp_path / "run")
    rows = {row["name"]: row for row in summary["ladder"]}
    assert list(rows) == ["none", "random", "untrained", "round1", "constant", "oracle"]
    assert [rows[name]["details"]["pairs"] for name in rows] == [3] * 6
    search = rows["constant"]["details"]
    assert (search["candidates"], search["training_tasks"], search["inner_updates"]) == (3, 1, 3)
    edits = list(read_jsonl(tmp_path / "run" / "edits.jsonl"))
    written = [edit for edit in edits if edit["policy"] in ("untrained", "round1")]
    unadapted = {edit["task"]: edit["answers"] for edit in edits if edit["policy"] == "none"}
    # A random model writes no directive: its edits are scored as the model that is not adapted, and not learned from.
    assert len(written) == 3 * 3 and sum(summary["invalid"].values()) == 9
    assert {edit["status"] for edit in written} == {"the directive is not JSON"}
    assert all(edit["answers"] == unadapted[edit["task"]] for edit in written if edit["phase"] == "eval")
    assert summary["rounds"][0]["selected"] == 0
    constant = [edit for edit in edits if edit["policy"] == "constant"]
    assert {edit["text"] for edit in constant} == {search["edit"]} and all(edit["status"] == "ok" for edit in constant)
    random = [edit for edit in edits if edit["policy"] == "random"]
    assert len({edit["text"] for edit in random}) > 1 and all(edit["status"] == "ok" for edit in random)
    submission = json.loads((tmp_path / "run" / "submission.json").read_text())
    config = resolve(load_config(ARC, arc_dry))
    arc.check_submission(submission, arc.load_tasks(config.data.eval_path, config.data.eval_solutions))
    page = (tmp_path / "run" / "report.html").read_text()
    assert page.count('<svg class="cells"') >= 2 * (4 + 2) and "Held-out tasks" in page
    assert "The best of 3 edits on 1 training tasks" in page and "invalid" in page
