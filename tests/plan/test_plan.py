"""`selfadapt plan`: the costs read from compiled programs, the contents of a plan, and its errors."""

import dataclasses
import json
import math
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selfadapt import cli
from selfadapt.config import load_config
from selfadapt.defaults import resolve
from selfadapt.domains import make_domain
from selfadapt.engine import flops, runtime
from selfadapt.engine.generate import sampling
from selfadapt.engine.memory import SHARE
from selfadapt.errors import UserError
from selfadapt.models.lora import Spec
from selfadapt.models.model import Model, load_model
from selfadapt.parallel import chips
from selfadapt.plan import advice, hlo, report, table, topology
from selfadapt.plan.costs import KINDS, Cost, cost
from selfadapt.plan.gpus import target_config
from selfadapt.plan.programs import abstract_model
from selfadapt.plan.round import Round
from selfadapt.plan.steps import Machine, Step
from selfadapt.plan.workload import Assumed, Workload, finetuning, outer_update, workload
from selfadapt.plan.writing import Texts, write
from selfadapt.types import TokenSequence, Update
from tests.engine.tiny import CONFIG

ROOT = pathlib.Path(__file__).parents[2]
QUICKSTART = str(ROOT / "configs" / "quickstart.py")
CHIP = chips.Chip("test chip", 2e11, 1e11, 2**33, 1e10, 1e9)
TOKENS = "passage=24,edit=30,longest=40,line=10,questions=2,question=12"


def loaded(overrides):
    return resolve(load_config(QUICKSTART, overrides))


@pytest.fixture
def small(tmp_path):
    """A tiny model's `config.json`, and the overrides of a small experiment."""
    architecture = dataclasses.replace(CONFIG, max_position_embeddings=512)
    (tmp_path / "config.json").write_text(json.dumps(architecture.to_json()))
    fields = {"model": str(tmp_path), "contexts": "4", "edits": "2", "at_once": "4", "inner.rank": "4"}
    fields |= {"inner_runs": "1", "answer.max_new_tokens": "8", "domain.max_segments": "8", "sampling.top_p": "1.0"}
    return tmp_path, fields | {"sampling.max_new_tokens": "64", "outer.rest_em.rank": "4"}


@pytest.fixture(autouse=True)
def here(monkeypatch):
    """`local` with known rates, so that nothing is measured."""
    found = topology.Topology("local", CHIP, tuple(jax.local_devices()[:1]), measured=True)
    monkeypatch.setattr(topology, "_local", lambda: found)


def compiled(function, *shapes):
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return jax.jit(function).lower(*arguments).compile().as_text()


def test_a_loop_counts_as_often_as_it_runs():
    def layers(x, weights):
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, weights)[0]

    assert hlo.Program(compiled(layers, (16, 32), (24, 32, 32))).flops() == 24 * 2 * 16 * 32 * 32


def test_operations_that_do_not_overlap_take_the_sum_of_their_longer_sides():
    def product_and_sum(x, large):
        return x @ x, large + 1.0

    def lower():
        shapes = jax.ShapeDtypeStruct((256, 256), jnp.float32), jax.ShapeDtypeStruct((2**22,), jnp.float32)
        return jax.jit(product_and_sum).lower(*shapes)

    step = Step("two operations", "adapt", 1, 1, 1, {}, {}, lower)
    found = cost(step, Machine(None, 2**33), topology.find("local"), "float32")
    product = 2 * 256**3 / CHIP.float32  # 0.34 ms, and 0.08 ms of memory traffic
    addition = 2 * 4 * 2**22 / CHIP.bandwidth
    assert found.serial == pytest.approx(product + addition, rel=1e-3)
    assert found.time == pytest.approx(addition + 2 * 4 * 256**2 / CHIP.bandwidth, rel=1e-3)


def test_a_loop_of_unknown_length_counts_as_often_as_given():
    def until(x, w):
        return jax.lax.while_loop(lambda x: x.sum() < 1e6, lambda x: x @ w, x)

    text = compiled(until, (16, 32), (32, 32))
    assert hlo.Program(text, trips=5).flops() == 5 * hlo.Program(text).flops() == 5 * 2 * 16 * 32 * 32


def test_a_slice_of_stacked_weights_is_read_and_not_the_stack():
    def layers(x, weights):
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, weights)[0]

    moved = hlo.Program(compiled(layers, (16, 256), (50, 256, 256))).bytes()
    stack = 50 * 256 * 256 * 4
    # Each layer is read once, and once more where the compiler first copies the slice.
    assert stack < moved < 4 * stack


def test_a_slice_that_is_fetched_ahead_counts_as_the_slice():
    program = hlo.Program(
        "HloModule m\n\nENTRY %main (a: s8[1000]) -> s8[100] {\n"
        "  %a = s8[1000]{0} parameter(0)\n"
        "  %s = ((s8[1000]{0}), s8[100]{0:S(1)}, s32[]{:S(2)}) slice-start(%a), slice={[0:100]}\n"
        "  ROOT %d = s8[100]{0:S(1)} slice-done(%s)\n}\n"
    )
    assert program.bytes() == 100  # read from main memory, written to the memory beside the compute units


def test_batched_products_written_as_convolutions_are_counted():
    # 4 batches of [48, 3584] x [3584, 128], as the TPU compiler writes them.
    line = (
        "  %c = bf16[4,48,4,128]{3,1,2,0} convolution(%a, %b), window={size=1x4 pad=0_0x3_3 rhs_reversal=0x1}, "
        "dim_labels=0bf1_1oi0->0b1f"
    )
    program = hlo.Program(
        "HloModule m\n\nENTRY %main (a: bf16[4,48,3584,1], b: bf16[4,128,3584,1]) -> bf16[4,48,4,128] {\n"
        "  %a = bf16[4,48,3584,1]{2,1,3,0} parameter(0)\n  %b = bf16[4,128,3584,1]{2,1,0,3} parameter(1)\n"
        f"  ROOT {line.strip()}\n}}\n"
    )
    assert program.flops() == 2 * 4 * 48 * 4 * 128 * 3584


def test_products_of_a_library_are_counted():
    line = (
        '  %g = (f32[16,64]{1,0}, s8[4096]{0}) custom-call(%a, %b), custom_call_target="__cublas$gemm", '
        'backend_config={"gemm_backend_config":{"dot_dimension_numbers":{"lhs_contracting_dimensions":["1"],'
        '"rhs_contracting_dimensions":["0"],"lhs_batch_dimensions":[],"rhs_batch_dimensions":[]}}}'
    )
    program = hlo.Program(
        "HloModule m\n\nENTRY %main (a: f32[16,32], b: f32[32,64]) -> (f32[16,64], s8[4096]) {\n"
        "  %a = f32[16,32]{1,0} parameter(0)\n  %b = f32[32,64]{1,0} parameter(1)\n"
        f"  ROOT {line.strip()}\n}}\n"
    )
    assert program.flops() == 2 * 16 * 32 * 64
    assert program.bytes() == 4 * (16 * 32 + 32 * 64 + 16 * 64) + 4096


@pytest.mark.parametrize(
    "written",
    [
        "replica_groups={{0,2},{1,3}}",
        "replica_groups=[2,2]<=[2,2]T(1,0)",
        "replica_groups=mesh['x'=2,'y'=2] {'x'}",
    ],
)
def test_groups_are_read_in_every_form(written):
    line = f"  %g = f32[8]{{0}} all-gather(%a), channel_id=1, {written}, dimensions={{0}}"
    groups = hlo.device_groups(hlo.read_instruction(line), 4)
    assert sorted(map(sorted, groups)) == [[0, 2], [1, 3]]
    gather = hlo.Collective("all-gather", 32, 1, groups)
    assert gather.axes({"data": 2, "tensor": 2}) == ("data",) and gather.sent() == 16


@dataclasses.dataclass(frozen=True)
class Device:
    """A TPU's place."""

    coords: tuple[int, int, int]
    platform: str = "tpu"


def slice_of(version, sides):
    """Returns a slice and its devices."""
    places = tuple(Device(tuple(map(int, place))) for place in np.ndindex(*sides))
    return topology.Topology("there", chips.TPUS[version], places), places


def test_a_ring_without_joined_ends_takes_twice_as_long():
    def seconds(version, sides, group):
        there, places = slice_of(version, sides)
        whole = tuple(range(len(places))) if group is None else group
        return there.seconds(hlo.Collective("all-gather", 1e9, 1, (whole,)), places)

    row = tuple(range(4))  # of the last dimension
    assert seconds("v5p", (4, 4, 4), row) == pytest.approx(0.75e9 / 200e9)  # a cube's faces are joined
    assert seconds("v5e", (4, 4, 1), (0, 4, 8, 12)) == pytest.approx(0.75e9 / 50e9)  # a row of v5e is a line
    assert seconds("v5e", (4, 4, 1), (0, 1, 5, 4)) == pytest.approx(0.75e9 / 100e9)  # a square is a ring
    assert seconds("v5e", (4, 4, 1), (0, 2, 8, 10)) == pytest.approx(0.75e9 / 50e9)  # others use the links between
    assert seconds("v5p", (4, 4, 4), None) == pytest.approx(63 / 64 * 1e9 / 600e9)


def test_a_permutation_takes_as_long_as_its_most_used_link():
    def permuted(version, sides, *pairs):
        there, places = slice_of(version, sides)
        collective = hlo.Collective("collective-permute", 1e9, 1, pairs)
        return there.seconds(collective, places), set(there.routes(collective, places))

    square, back = ((0, 1), (1, 5), (5, 4), (4, 0)), ((0, 4), (4, 5), (5, 1), (1, 0))
    (there, ahead), (again, behind) = (permuted("v5e", (4, 4, 1), *ways) for ways in (square, back))
    assert there == again == pytest.approx(1e9 / 50e9)  # one link of four, in one direction
    assert len(ahead) == len(behind) == 4 and not ahead & behind
    line = ((0, 4), (4, 8), (8, 12), (12, 0))
    seconds, used = permuted("v5e", (4, 4, 1), *line)
    assert (seconds, len(used)) == (pytest.approx(1e9 / 50e9), 6)  # the last one goes back over all three links
    assert permuted("v5e", (4, 4, 1), (0, 8), (4, 12))[0] == pytest.approx(2e9 / 50e9)  # both use the middle link
    assert len(permuted("v5p", (4, 4, 4), (0, 3))[1]) == 1  # the ends of a closed ring are neighbours


def planner(rank=4, **changes):
    """A planner of one adapt of 8 adapters on sequences of 32 tokens, on one device."""
    config = loaded({"contexts": "4", "edits": "2", "at_once": "8", "inner.rank": str(rank)})
    architecture = dataclasses.replace(CONFIG, **changes)
    machine = Machine(None, 2**33)
    update = Update([TokenSequence((1,) * 32)] * 2, rank=rank, targets="all-linear", epochs=1)
    work = Workload("the test", (32,) * 4, 32, 32, (update,) * 4, ((16,) * 2,) * 4)
    return Round(config, abstract_model(Model(architecture, {}), machine, "float32"), machine, work)


def test_batches_of_a_plan_are_made_for_the_memory_that_a_run_is_given():
    local = topology.find("local")
    memory = local.chip.memory
    assert report.machine(loaded({}), local).budget(2**20) == int(SHARE * (memory - 2**20))
    given = report.machine(loaded({"free_memory_gib": "0.25"}), local)
    assert given.memory == memory and given.budget(2**20) == int(SHARE * 2**28)
    with pytest.raises(UserError, match=r"config\.free_memory_gib is 0.0; it must be a positive number"):
        report.machine(loaded({"free_memory_gib": "0"}), local)


def test_a_bfloat16_policy_that_is_merged_takes_the_float32_copies_of_its_trained_weights():
    config = loaded({"contexts": "4", "edits": "2", "at_once": "8"})
    machine = Machine(None, 2**33)
    work = Workload("the test", (32,) * 4, 32, 32, (Update(()),) * 4, ((16,) * 2,) * 4)
    held = {}
    for keep in (True, False):
        config.unlock()
        config.outer.rest_em.keep_master = keep
        model = abstract_model(Model(CONFIG, {}), machine, "bfloat16")
        held[keep] = Round(config, model, machine, work).others
    projections = sum(math.prod(shape) for shape in CONFIG.projections().values())
    assert held[True] - held[False] == 4 * CONFIG.num_layers * projections


def test_flops_of_a_training_step_are_those_counted_from_its_tokens(monkeypatch):
    monkeypatch.setattr(runtime, "parallel_streams", lambda mesh: 1)
    # Where layers are unrolled, the compiler drops what would flow back past the first one.
    for layers, tolerance in ((8, 0.01), (2, 0.07)):
        made = planner(num_layers=layers, hidden_size=64, head_dim=16)
        (step,) = made.training()
        program = hlo.Program(step.lower().compile().as_text())
        config = made.model.config
        adapter = flops.adapter_size(config, Spec(4, 8.0, tuple(config.projections())))
        # The program also multiplies what the causal mask then hides, which the count leaves out.
        hidden = 32 * 32 - 32 * 33 / 2
        hidden_flops = 3 * 4 * config.num_heads * config.head_dim * config.num_layers * hidden
        wanted = step.padded / 32 * (flops.training(config, 32, adapter=adapter) + hidden_flops)
        assert program.flops() == pytest.approx(wanted, rel=tolerance)


def test_the_steps_are_the_programs_that_a_run_compiles(monkeypatch):
    monkeypatch.setattr(runtime, "parallel_streams", lambda mesh: 1)
    made = planner()
    (step,) = made.training()
    assert step.name.startswith("adapt 2x1x32") and step.runs == 8 / 2 * 2
    assert step.tokens == step.padded == 2 * 32
    start, extend = made.sampling()
    assert (start.name, start.runs) == ("sample start 1x4x32", 1) and extend.name.startswith("sample extend 1x8,")
    assert extend.inputs["cache"].k[0].shape[0] == 8


def test_long_texts_are_planned_with_compaction():
    texts = Texts(samples=5, typical=240, longest=1536, most=8192, mode="plain")
    stages = write(texts.lengths(320)[None], width=320, most=8192, shards=1).stages
    assert [stage.slots - 320 for stage in stages] == [128, 256, 512, 1024, 2048]
    assert sum(stage.steps for stage in stages) == 1535
    assert [stage.shape[1] for stage in stages] == sorted({stage.shape[1] for stage in stages}, reverse=True)
    assert stages[0].shape == (1, 320) and stages[0].padded == 320 * 128
    written, padded = (sum(getattr(stage, name) for stage in stages) for name in ("tokens", "padded"))
    assert written / 320 == pytest.approx(239, rel=0.03) and 0.7 < written / padded < 1
    equal = Texts(samples=1, typical=200, longest=200, most=200, mode="greedy")
    stages = write(equal.lengths(32).reshape(4, 8), width=32, most=200, shards=1).stages
    assert {stage.shape for stage in stages} == {(4, 8)}  # texts of one length end together
    assert sum(stage.tokens for stage in stages) == sum(stage.padded for stage in stages) == 32 * 199


def test_prompts_that_wait_for_places_are_planned(monkeypatch):
    monkeypatch.setattr(runtime, "parallel_streams", lambda mesh: 1)
    made = planner()
    steps = {}
    for budget in (2**33, 2**22):
        made.budget = budget
        steps[budget] = list(made.generating("sample", [(0, 16)] * 32, Texts(2, 60, 300, 600, "plain"), None, 3.0))
    whole, few = steps.values()
    start, extend, *_, filling = few
    assert whole[0].padded == 32 * 16 and not any("places" in step.name for step in whole)
    rows = int(start.name.split("x")[1])
    assert start.runs == 3 and 2 < rows < 16 and extend.padded == 2 * rows * extend.trips
    assert filling.name.endswith("in places of others") and filling.runs * filling.tokens == 3 * 16 * (32 - rows)
    assert filling.inputs["cache"].k[0].shape[0] == 2 * rows

    def tokens(steps):
        return sum(step.tokens * step.runs for step in steps if "extend" in step.name)

    assert [tokens(whole), tokens(few)] == pytest.approx([3 * 64 * 59] * 2)


def test_texts_that_a_plan_preempts_are_planned_again(monkeypatch):
    monkeypatch.setattr(sampling, "RESERVED", 128)
    made = planner()
    made.budget = 2**20
    steps = list(made.generating("sample", [(0, 16)] * 64, Texts(1, 60, 600, 600, "plain"), None, 1.0))
    starts = [step for step in steps if "start" in step.name and "places" not in step.name]
    assert len(starts) > 1 and starts[1].padded < starts[0].padded
    tokens = sum(step.tokens * step.runs for step in steps if "extend" in step.name)
    assert tokens == pytest.approx(64 * 59, rel=0.1)  # the mean is that of the distribution, not of these texts


def test_a_plan_lists_the_costs_of_every_program_as_json(small, capsys):
    directory, fields = small
    overrides = [f"--config.{name}={value}" for name, value in fields.items()]
    arguments = ["plan", f"--config={QUICKSTART}", "--topology=local", f"--tokens={TOKENS}", "--json", *overrides]
    assert cli.main(arguments) == 0
    plan = json.loads(capsys.readouterr().out)
    assert set(plan) == {"topology", "model", "run", "fits", "programs", "advice"}
    assert plan["fits"] and plan["topology"]["measured"] and plan["topology"]["mesh"]["data"] == 1
    assert plan["model"]["name"] == str(directory) and plan["run"]["sizes"]["edits"] == 8
    assert plan["run"]["edits_per_second"] == pytest.approx(8 / sum(plan["run"]["seconds"].values()))
    for program in plan["programs"]:
        assert max(program["seconds"].values()) <= 1.001 * program["serial"] <= 1.002 * sum(program["seconds"].values())
    counted = [program for program in plan["programs"] if program["phase"] in plan["run"]["seconds"]]
    serial = sum(program["runs"] * program["serial"] for program in counted)
    assert plan["run"]["serial_seconds"] == pytest.approx(serial)
    phases = {program["phase"] for program in plan["programs"]}
    assert phases == {"sample", "adapt", "answer", "improve", "log_likelihood"}
    for program in plan["programs"]:
        assert set(program["memory"]) == set(KINDS) and program["memory"]["weights"] > 0
        assert program["needed"] == sum(program["memory"].values()) <= program["limit"]
        assert program["flops"] > 0 and program["bytes"] > 0 and program["tokens"] <= program["padded"]
        assert program["roofline_seconds"] == max(program["seconds"].values()) > 0
        assert program["collectives"] == []
    text = table.format_plan(plan)
    assert all(program["name"] in text for program in plan["programs"]) and "It fits." in text


def test_a_plan_can_be_of_some_parts_only(small):
    config, given = loaded(small[1]), Assumed.parse(TOKENS)
    plan = report.plan(config, "local", assumed=given, only=["adapt"])
    assert {program["phase"] for program in plan["programs"]} == set(plan["run"]["seconds"]) == {"adapt"}
    assert "sampled tokens/s" not in table.format_plan(plan)
    scores = report.plan(config, "local", assumed=given, only=["log_likelihood"])
    assert scores["run"]["seconds"] is None and table.format_plan(scores).endswith("It fits.")
    with pytest.raises(UserError, match="a plan has no phase 'score'; there are sample, adapt"):
        report.plan(config, "local", assumed=given, only=["score"])


def test_stages_of_halving_cannot_be_planned(small):
    with pytest.raises(UserError, match=r"config\.halving is \(1,\); stages cannot be planned"):
        report.plan(loaded(small[1] | {"halving": "1"}), "local", assumed=Assumed.parse(TOKENS), only=["adapt"])


def test_with_ratings_alone_for_rewards_a_round_neither_adapts_nor_asks(small):
    here = topology.find("local")

    def seconds(reward):
        config = loaded(small[1] | {"reward": reward})
        model = report.read_model(str(small[0]))
        described = report.describe(config, model, workload(config, model, Assumed.parse(TOKENS)), here)
        costs = [Cost(phase, phase, 1, 1, 1, {}, limit=1, seconds={"compute": 2.0}) for phase in described.phases()]
        return report.summary(described, here, costs)["run"]["seconds"]

    assert seconds("both") == {"sample": 2.0, "adapt": 2.0, "answer": 2.0, "improve": 2.0}
    assert seconds("proxy") == {"sample": 2.0, "improve": 2.0}


def test_texts_that_exceed_the_context_are_an_error_that_names_the_way_out(small):
    config = loaded(small[1])
    with pytest.raises(UserError, match=r"improve: none .*\(invalid: sequence 0 has 594 tokens.*--tokens"):
        report.plan(config, "local", assumed=Assumed.parse("passage=500,edit=30"), only=["improve"])


def test_the_weights_file_itself_is_not_needed_but_its_config_is(tmp_path):
    with pytest.raises(UserError, match=r"there is no .*config\.json; give --model"):
        report.read_model(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps(CONFIG.to_json()))
    assert report.read_model(str(tmp_path / "config.json")).config == CONFIG
    read, loaded_model = report.read_model("tiny"), load_model("tiny")
    text = "The capital of Arelo is"
    assert read.tokenizer(text)["input_ids"] == loaded_model.tokenizer(text)["input_ids"]


def test_texts_are_measured_where_data_and_tokenizer_are_at_hand():
    config = loaded({"contexts": "3"})
    work = workload(config, report.read_model("tiny"), None)
    assert work.source.startswith("measured on 3 contexts of tiny_world")
    model = load_model("tiny")
    domain = make_domain(config, model)
    tasks = domain.tasks("train", 3, 0)

    def tokens(text):
        return len(model.tokenizer(text)["input_ids"])

    assert work.prompts == tuple(tokens(domain.edit_prompt(task)) for task in tasks)
    assert work.questions == tuple(tuple(map(tokens, domain.questions(task, ""))) for task in tasks)
    assert work.longest == max(tokens(domain.oracle(task)) for task in tasks)
    for task, update, alone in zip(tasks, work.updates, work.alone, strict=True):
        assert update == domain.apply(task, domain.oracle(task))
        assert alone == tuple(domain.apply(task, None).sequences)


def test_texts_are_assumed_otherwise(small):
    config = loaded(small[1])
    work = workload(config, report.read_model(str(small[0])), None)
    assert work.source.startswith("assumed, since the model has no tokenizer")
    assert [len(s.ids) for s in work.updates[0].sequences][-1] == Assumed().passage
    given = workload(config, report.read_model("tiny"), Assumed.parse("passage=9"))
    assert given.source.startswith("as given: passage 9")


def test_the_policy_is_trained_on_as_many_edits_as_can_be_selected():
    config = loaded({"contexts": "4", "outer.rest_em.select": "best", "outer.rest_em.k": "2"})
    work = workload(config, report.read_model("tiny"), Assumed())
    update = finetuning(config, outer_update(config), work)
    assert len(update.sequences) == 8 and update.rank == config.outer.rest_em.rank
    assert sum(update.sequences[0].mask) == work.edit


@pytest.mark.parametrize(
    ("name", "edits"), [("reinforce", 320), ("rloo", 320), ("grpo", 320), ("ppo", 320), ("dpo", 128)]
)
def test_updates_by_gradient_are_planned_as_the_training_of_an_adapter_on_their_edits(name, edits):
    config = loaded({"outer.name": name})
    outer = outer_update(config)
    update = finetuning(config, outer, workload(config, report.read_model("tiny"), Assumed()))
    assert len(update.sequences) == edits and update.rank == 16 and not outer.merge
    assert update.batch_size == 16  # 8 pairs for dpo


def test_an_update_that_does_not_describe_its_training_cannot_be_planned(tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "undescribed.py").write_text(
        "class Update:\n    merge = False\n\ndef make(config):\n    return Update()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match="config.outer.name is 'mine.undescribed', which lacks a part of .*Trains"):
        outer_update(loaded({"outer.name": "mine.undescribed"}))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("v7:4x4", "there is no topology 'v7:4x4'; give 'local', or a TPU"),
        ("v5e", "there is no topology"),
        ("v5e:4x", "there is no topology"),
        ("v5e:4x4x4", "has 2 sides, such as v5e:4x4"),
        ("v5p:4x4", "has 3 sides"),
        ("v5e:32x16", "at most 16x16 chips"),
        ("h100", "give the number of GPUs of one host, 1 to 8, such as h100:2"),
        ("h200:16", "the number of GPUs of one host"),
        ("v100:2", "or a GPU and how many of one host, up to 8: a100:2"),
    ],
)
def test_a_wrong_topology_is_named_with_what_would_be_right(name, message):
    with pytest.raises(UserError, match=message):
        topology.find(name)


@pytest.mark.parametrize(("text", "message"), [("passages=3", "has no 'passages'"), ("edit=0", "edit is '0'")])
def test_wrong_sizes_of_texts_are_named(text, message):
    with pytest.raises(UserError, match=message):
        Assumed.parse(text)


def test_without_the_tpu_compiler_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "libtpu", None)
    with pytest.raises(UserError, match=r"pip install 'selfadapt\[tpu\]'"):
        topology._slice("v5e:2x2", "v5e", (2, 2))


def test_compilers_do_not_look_for_devices_where_jax_is_imported_already(monkeypatch):
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    given = jax.config.jax_platforms
    try:
        for platforms, name, expected in ((None, "local", None), ("cuda", "h100:2", "cuda"), (None, "h100:2", "cpu")):
            jax.config.update("jax_platforms", platforms)
            topology.quiet(name)
            assert jax.config.jax_platforms == expected
    finally:
        jax.config.update("jax_platforms", given)


def test_without_the_gpu_compiler_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "jax_plugins.xla_cuda12", None)
    with pytest.raises(UserError, match=r"pip install 'selfadapt\[gpu\]'"):
        topology.find("h100:2")


@pytest.mark.parametrize("kind", chips.GPUS)
def test_the_compiler_is_told_of_every_gpu(kind):
    told = dict(line.split(": ", 1) for line in target_config(kind).splitlines() if ": " in line)
    assert float(told["  memory_bandwidth"]) == chips.GPUS[kind].bandwidth
    # Fused multiply-adds in float32 on all lanes are what the matrix units exceed several times over.
    lanes = 2e9 * int(told["  core_count"]) * int(told["  fpus_per_core"]) * float(told["  clock_rate_ghz"])
    assert 10 < chips.GPUS[kind].bfloat16 / lanes < 20


def test_the_share_of_gpu_memory_is_that_of_the_plan_unless_the_user_chose_one(monkeypatch):
    for name in ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION"):
        monkeypatch.delenv(name, raising=False)
    chips.take_gpu_memory()
    assert chips.GPUS["h100"].memory == pytest.approx(float(os.environ["XLA_CLIENT_MEM_FRACTION"]) * 80e9)
    monkeypatch.setenv("XLA_CLIENT_MEM_FRACTION", "0.5")
    chips.take_gpu_memory()
    assert os.environ["XLA_CLIENT_MEM_FRACTION"] == "0.5"
    monkeypatch.delenv("XLA_CLIENT_MEM_FRACTION")
    monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.6")
    chips.take_gpu_memory()
    assert "XLA_CLIENT_MEM_FRACTION" not in os.environ  # JAX refuses both


@pytest.mark.slow
def test_what_does_not_fit_comes_with_changes_that_were_compiled(small, monkeypatch):
    config = loaded(small[1] | {"contexts": "8", "edits": "4", "at_once": "32"})
    for phase in ("sampling", "improving", "scoring"):  # these take the same however many edits are scored at once
        monkeypatch.setattr(Round, phase, lambda self: ())
    whole = report.plan(config, "local", assumed=Assumed.parse(TOKENS))
    largest = max(program["needed"] for program in whole["programs"])
    chip = dataclasses.replace(CHIP, memory=0.75 * largest)
    tight = topology.Topology("local", chip, tuple(jax.local_devices()[:1]), measured=True)
    monkeypatch.setattr(topology, "_local", lambda: tight)
    monkeypatch.setattr(Round, "__init__", _generous(Round.__init__, 100 * largest))
    plan = report.plan(config, "local", assumed=Assumed.parse(TOKENS))
    assert not plan["fits"] and plan["run"]["edits_per_second"] is None
    good = [each for each in plan["advice"] if each["fits"]]
    assert good and good[0]["change"].startswith("--config.at_once=") and good[0]["needed"] <= chip.memory
    text = table.format_plan(plan)
    assert "DOES NOT FIT" in text and good[0]["change"] in text


def _generous(init, memory):
    """A planner that believes in more memory than there is, as when an estimate is too low."""

    def wrapped(self, *arguments):
        init(self, *arguments)
        self.budget = int(memory)

    return wrapped


def test_changes_are_tried_from_the_cheapest_to_the_largest_slice(monkeypatch):
    config = loaded({"at_once": "4", "mesh.tensor": "2"})
    there = topology.Topology("v5e:2x2", chips.TPUS["v5e"], tuple(Fake() for _ in range(4)))
    monkeypatch.setattr(advice, "find", lambda name: dataclasses.replace(there, name=name, devices=there.devices * 2))

    def costs(changed, other):
        need = 10.0 - changed.mesh.fsdp  # more edits at once take no more here
        return [Cost("it", "adapt", 1, 1, 1, {"weights": need}, limit=6.5)]

    tried = advice.advise(config, there, CONFIG, costs)
    half = "--config.dtype=bfloat16"
    assert [(each["change"], each["fits"]) for each in tried] == [
        (f"{half} --config.mesh.data=1 --config.mesh.fsdp=4 --config.mesh.tensor=1", True),
        (f"--topology=v5e:2x4 {half} --config.mesh.data=1 --config.mesh.fsdp=4 --config.mesh.tensor=2", True),
        (half, False),
        (f"{half} --config.at_once=2", False),
        (f"{half} --config.at_once=1", False),
        (f"{half} --config.mesh.data=1 --config.mesh.fsdp=2 --config.mesh.tensor=2", False),
    ]


def test_the_benchmark_of_predictions_runs_every_program(small, capsys):
    from benchmarks import plan

    overrides = [f"--config.{name}={value}" for name, value in small[1].items()]  # programs that a test above compiled
    plan.main([f"--config={QUICKSTART}", "--times=1", f"--tokens={TOKENS}", *overrides])
    printed = capsys.readouterr().out
    assert "test chip: 100 GFLOP/s, 10 GB/s, measured" in printed
    for phase in ("sample start", "sample extend", "adapt", "answer start", "answer extend", "improve"):
        (line, *_) = [line for line in printed.splitlines() if line.startswith(phase)]
        assert float(line.split()[-1]) > 0


@dataclasses.dataclass(frozen=True)
class Fake:
    platform: str = "tpu"


@pytest.mark.parametrize(
    ("compiler", "extra", "name", "chip"),
    [
        ("libtpu", "tpu", "v5e:4x4", "TPU v5e"),
        ("jax_plugins.xla_cuda12", "gpu", "h100:8", "H100"),
    ],
)
def test_a_real_slice_is_compiled_for_without_its_chips(small, compiler, extra, name, chip):
    pytest.importorskip(compiler, reason=f"this compiler is not installed: pip install 'selfadapt[{extra}]'")
    directory, fields = small
    overrides = [f"--config.{field}={value}" for field, value in fields.items()]
    command = [sys.executable, "-m", "selfadapt", "plan", f"--config={QUICKSTART}", f"--topology={name}", "--json"]
    command += [f"--model={directory / 'config.json'}", f"--tokens={TOKENS}", *overrides]
    command += [
        "--only=sample,adapt",
        "--config.mesh.fsdp=2",
        "--config.mesh.tensor=2",
    ]  # no axis is a whole side of the torus
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert plan["fits"] and plan["topology"]["chip"]["name"] == chip
    assert plan["topology"]["mesh"] == {"data": plan["topology"]["devices"] // 4, "fsdp": 2, "tensor": 2}
    steps = [program for program in plan["programs"] if program["phase"] == "adapt"]
    over = {axis for program in steps for each in program["collectives"] for axis in each["axes"]}
    assert over == {"fsdp", "tensor"}  # nothing crosses `data`
    assert all(program["seconds"]["links"] > 0 for program in steps)
    assert all(program["flops"] > 0 for program in plan["programs"])
