"""Plans of evaluation protocols: the work that they count, and the programs that a run of one uses."""

import dataclasses
import json
import pathlib

import jax
import pytest

from selfadapt import cli
from selfadapt.config import load_config
from selfadapt.defaults import resolve
from selfadapt.engine import runtime
from selfadapt.engine.adapt import training_step
from selfadapt.errors import UserError
from selfadapt.parallel import chips
from selfadapt.plan import report, table, topology
from selfadapt.plan.workload import Assumed, workload
from selfadapt.protocols.run import evaluate
from tests.engine.tiny import CONFIG
from tests.worlds import random_world_model

PAPER = pathlib.Path(__file__).parents[2] / "configs" / "seal" / "paper"
CHIP = chips.Chip("test chip", 2e11, 1e11, 2**33, 1e10, 1e9)
HERE = topology.Topology("local", CHIP, tuple(jax.local_devices()[:1]), measured=True)
TOKENS = Assumed(passage=24, edit=30, longest=40, line=10, questions=3, question=12)


@pytest.fixture(autouse=True)
def here(monkeypatch):
    """`local` with known rates, and one stream of training steps, as on an accelerator."""
    monkeypatch.setattr(topology, "_local", lambda: HERE)
    monkeypatch.setattr(runtime, "parallel_streams", lambda mesh: 1)


@pytest.fixture
def described(tmp_path):
    """Describes a run of a paper config on a tiny model; texts have the sizes of `TOKENS`."""
    architecture = dataclasses.replace(CONFIG, max_position_embeddings=512)
    (tmp_path / "config.json").write_text(json.dumps(architecture.to_json()))

    def describe(name, **fields):
        fields = {"inner__rank": 4, "sampling__max_new_tokens": 64, "answer__max_new_tokens": 8} | fields
        given = {name.replace("__", "."): str(value) for name, value in fields.items()}
        config = resolve(load_config(f"{PAPER}/{name}", given | {"model": str(tmp_path)}))
        model = report.read_model(config.model)
        return report.describe(config, model, workload(config, model, TOKENS), HERE)

    return describe


def tokens(steps):
    return sum(step.runs * step.tokens for step in steps)


def test_all_steps_of_all_streams_are_counted(described):
    run = described("continual_qwen2p5_7b.py")
    assert run.sizes() == {"streams": 64, "passages of each": 8, "edits": 512}
    start, extend = run.sampling()
    assert tokens([start]) == 512 * (24 + 64) and tokens([extend]) == pytest.approx(512 * (30 - 1))
    assert tokens(run.training()) == 512 * 10 * (3 * 10 + 24)  # ten epochs over three lines and the passage
    start, extend = run.answering()
    asked = 64 * (8 + sum(range(1, 9))) * 3  # questions: row 0 of all passages, row t of the first t
    assert tokens([start]) == asked * 12 and tokens([extend]) == pytest.approx(asked * (8 - 1))


def test_a_step_is_on_top_of_the_sum_of_the_earlier_ones(described):
    run = described("continual_qwen2p5_7b.py")
    (step, *_) = run.training()
    trained, below = step.inputs["adapters"]
    assert {leaf.shape[-1] for leaf in trained[0].values()} == {4}
    assert {leaf.shape[-1] for leaf in below[0][0].values()} == {8 * 4}
    assert all(leaf.shape[0] == 64 for leaf in jax.tree.leaves(below))
    (start, _) = run.sampling()
    shape = (CONFIG.num_layers, 64, CONFIG.hidden_size, 8 * 4)
    assert {leaf.shape for leaf in start.inputs["adapters"].a.values()} == {shape}


def test_the_untrained_model_is_in_memory_beside_a_policy(described):
    with_policy, without = (described("continual_qwen2p5_7b.py", protocol__policy=name) for name in ("runs/it", ""))
    assert with_policy.others == with_policy.weights and without.others == 0


@pytest.mark.parametrize(
    ("version", "size", "sequences", "steps"),
    [("v1", 200, 2000, 3 * 250), ("v2", 200, 1200, 150), ("v2", 2067, 12402, 1551)],
)
def test_the_sequences_of_all_passages_are_learned_in_one_update(described, version, size, sequences, steps):
    fields = {"protocol__sizes": size} | ({"inner__rank": 4} if version == "v1" else {})
    run = described(f"continued_pretraining_qwen2p5_7b.py:{version}", **fields)
    wanted = {"models": 1, "passages of each": size, "edits": 5 * size, "sequences": sequences}
    assert run.sizes() == wanted
    *training, last = run.training()
    repeated = 5 if version == "v1" else 1  # times that the passage is learned, 24 tokens, beside five edits of 30
    assert tokens([*training, last]) == (3 if version == "v1" else 1) * size * (5 * 30 + repeated * 24)
    if version == "v2":
        assert last.name == "adapt all weights, optimizer step" and last.runs == steps
    start, _ = run.sampling()
    assert tokens([start]) == pytest.approx(size * (24 + 64))
    start, _ = run.answering()
    questions = 500 if version == "v2" else 3 * size
    assert tokens([start]) == 2 * questions * 12  # before the update and after it
    assert ("adapters" in start.inputs) == (version == "v1")
    assert start.held["weights"] == run.others + (run.weights if version == "v2" else 0)


def test_single_passages_have_a_model_each(described):
    fields = {"protocol__sizes": 1, "protocol__singles": 6}
    run = described("continued_pretraining_qwen2p5_7b.py:v1", **fields)
    assert run.sizes() == {"models": 6, "passages of each": 1, "edits": 30, "sequences": 60}
    (step, *_) = run.training()
    assert all(leaf.shape[0] == 6 for leaf in jax.tree.leaves(step.inputs["adapters"]))
    all_weights = described("continued_pretraining_qwen2p5_7b.py:v2", **fields)
    assert tokens(all_weights.training()) == 6 * (5 * 30 + 24)


@pytest.mark.slow
def test_training_steps_are_those_of_a_run(tmp_path, monkeypatch):
    records = [
        {"title": f"T{i}", "context": f"It is old {i}.", "questions": [{"question": "How?", "answer": "old"}]}
        for i in range(4)
    ]
    (tmp_path / "data.json").write_text(json.dumps(records))
    fields = {"model": random_world_model(tmp_path / "model"), "data.path": tmp_path / "data.json"}
    fields |= {"evaluation.contexts": 4, "answer.max_new_tokens": 4, "sampling.max_new_tokens": 16, "dtype": "float32"}
    fields |= {"grader.name": "containment", "protocol.policy": "", "protocol.variants": "oracle", "inner.epochs": 2}
    fields |= {"protocol.runs": 1, "protocol.streams": 2, "protocol.passages": 2, "protocol.disjoint": True}
    fields |= {f"grader.{name}": None for name in ("url", "model", "api_key_env", "cache")}
    config = load_config(PAPER / "continual_qwen2p5_7b.py", {name: str(value) for name, value in fields.items()})
    seen = []
    real = training_step.program

    def recorded(params, state, batch, frozen=None, **options):
        if frozen is not None:  # the first step has none below
            seen.append((batch["tokens"].shape, jax.tree.map(lambda leaf: leaf.shape, frozen)))
        return real(params, state, batch, frozen, **options)

    monkeypatch.setattr(training_step, "program", recorded)
    evaluate(config, tmp_path / "run")
    monkeypatch.undo()
    monkeypatch.setattr(runtime, "parallel_streams", lambda mesh: 1)
    resolved = resolve(config)
    model = report.read_model(resolved.model)
    run = report.describe(resolved, model, workload(resolved, model, None), HERE)
    steps = list(run.training())
    shapes = {tuple(map(int, step.name.split()[1].strip(",").split("x"))) for step in steps}
    assert seen and {shape for shape, _ in seen} <= shapes
    below = jax.tree.map(lambda leaf: leaf.shape, steps[0].inputs["adapters"][1])
    assert all(shape == below for _, shape in seen)


def test_a_plan_of_a_protocol_is_compiled_and_printed(tmp_path, capsys):
    (tmp_path / "config.json").write_text(json.dumps(dataclasses.replace(CONFIG, num_layers=1).to_json()))
    fields = {"streams": 2, "passages": 2, "runs": 1}
    arguments = ["plan", f"--config={PAPER / 'continual_qwen2p5_7b.py'}", "--topology=local", "--only=adapt,answer"]
    arguments += [f"--model={tmp_path}", "--config.dtype=float32", "--config.inner.rank=2"]
    arguments += ["--tokens=passage=24,edit=10,longest=12,line=10,questions=2,question=12"]
    arguments += ["--config.answer.max_new_tokens=4", *(f"--config.protocol.{k}={v}" for k, v in fields.items())]
    assert cli.main([*arguments, "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["fits"] and plan["run"]["name"] == "A variant" and set(plan["run"]["seconds"]) == {"adapt", "answer"}
    assert all(program["flops"] > 0 and program["memory"]["adapters"] > 0 for program in plan["programs"])
    text = table.format_plan(plan)
    assert "A variant: 2 streams, 2 passages of each, 4 edits." in text and "It fits. A variant takes" in text


def test_what_cannot_be_planned_is_named(tmp_path):
    with pytest.raises(UserError, match="config.protocol.name is 'evolve', which cannot be planned; there are"):
        report.plan(load_config("lse/evolve"), "local")
    config = load_config(PAPER / "continual_qwen2p5_7b.py")
    (tmp_path / "config.json").write_text(json.dumps(CONFIG.to_json()))
    with pytest.raises(UserError, match="a plan has no phase 'improve'; there are sample, adapt, answer"):
        report.plan(config, "local", str(tmp_path), TOKENS, only=["improve"])
