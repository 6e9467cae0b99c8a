"""A plan on eight devices of this machine: the same programs, with the collectives that divide them."""

import dataclasses
import json
import math
import pathlib

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from selfadapt.config import load_config
from selfadapt.parallel import chips
from selfadapt.parallel.sharding import make_mesh
from selfadapt.plan import hlo, report, topology
from selfadapt.plan.workload import Assumed
from tests.engine.tiny import CONFIG

QUICKSTART = str(pathlib.Path(__file__).parents[2] / "configs" / "quickstart.py")
CHIP = chips.Chip("test chip", 2e11, 1e11, 2**33, 1e10, 1e9)
LAYERS, ROWS, HIDDEN, WIDE = 6, 32, 16, 64


def test_collectives_of_a_divided_scan_are_those_that_its_shardings_ask_for():
    mesh = make_mesh(2, 2, 2)

    def array(shape, *spec):
        return jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(mesh, PartitionSpec(*spec)))

    def whole_rows(x):
        return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, PartitionSpec(("data", "fsdp"), None)))

    def layer(x, weights):
        up, down = (
            jax.lax.with_sharding_constraint(w, NamedSharding(mesh, spec))
            for w, spec in zip(weights, (PartitionSpec(None, "tensor"), PartitionSpec("tensor", None)), strict=True)
        )
        return whole_rows(jnp.tanh(x @ up) @ down), None

    def layers(x, weights):
        return jax.lax.scan(layer, x, weights)[0]

    weights = (
        array((LAYERS, HIDDEN, WIDE), None, "fsdp", "tensor"),
        array((LAYERS, WIDE, HIDDEN), None, "tensor", "fsdp"),
    )
    x = array((ROWS, HIDDEN), ("data", "fsdp"), None)
    program = hlo.Program(jax.jit(layers).lower(x, weights).compile().as_text())
    assert program.flops() == LAYERS * 2 * 2 * ROWS * HIDDEN * WIDE / 8
    found = {}
    for each in program.collectives():
        kind = each.kind, each.axes(mesh.shape)
        found[kind] = found.get(kind, 0) + each.times * each.bytes
    assert found == {
        ("all-gather", ("fsdp",)): LAYERS * 2 * HIDDEN * WIDE / 2 * 4,  # a layer's weights, but for the tensor axis
        ("all-reduce", ("tensor",)): LAYERS * ROWS / 4 * HIDDEN * 4,  # the partial sums of its output
    }


@pytest.mark.parametrize("shape", [pytest.param((8, 1, 1), marks=pytest.mark.slow), (2, 2, 2)])
def test_a_plan_divides_memory_and_names_the_axes(shape, tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text(json.dumps(dataclasses.replace(CONFIG, tie_word_embeddings=False).to_json()))
    monkeypatch.setattr(topology, "_local", lambda: topology.Topology("local", CHIP, tuple(jax.devices()), True))
    fields = {f"mesh.{name}": str(size) for name, size in zip(("data", "fsdp", "tensor"), shape, strict=True)}
    fields |= {"model": str(tmp_path), "contexts": "8", "edits": "2", "at_once": "16", "inner.rank": "4"}
    config = load_config(QUICKSTART, fields | {"sampling.max_new_tokens": "64", "outer.rest_em.rank": "4"})
    given = Assumed.parse("passage=24,edit=30,longest=40,line=10,questions=2,question=12")
    plan = report.plan(config, "local", assumed=given)
    assert plan["fits"] and tuple(plan["topology"]["mesh"].values()) == shape
    assert {"sample", "adapt", "answer", "improve", "log_likelihood"} == {each["phase"] for each in plan["programs"]}
    steps = [program for program in plan["programs"] if program["phase"] == "adapt"]
    over = {axis for program in steps for each in program["collectives"] for axis in each["axes"]}
    assert "data" not in over
    assert over == {name for name, size in zip(("data", "fsdp", "tensor"), shape, strict=True) if size > 1} - {"data"}
    # All that is divided by fsdp and tensor is at least so much smaller; norms and odd sizes stay whole.
    whole = plan["model"]["parameters"] * 4 * 2  # with the untrained weights
    assert whole / math.prod(shape[1:]) <= steps[0]["memory"]["weights"] < whole / math.prod(shape[1:]) * 1.5
