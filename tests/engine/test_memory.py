"""Whether activations are recomputed is decided for the training steps that run, on the devices that run them."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selfadapt import Update
from selfadapt.config import load_config
from selfadapt.engine import memory
from selfadapt.engine.adapt.work import plan_work
from selfadapt.errors import InvalidValueError, OutOfMemoryError
from selfadapt.experiment import train
from selfadapt.models import decoder
from selfadapt.models.config import PROJECTION_AXES, ModelConfig
from selfadapt.models.lora import abstract_lora
from selfadapt.models.model import random_params
from selfadapt.parallel import sharding
from selfadapt.protocols.run import evaluate
from selfadapt.telemetry.metrics import MetricsWriter
from selfadapt.types import TokenSequence
from tests.engine.tiny import CONFIG

GIB = 2**30
SEVEN = ModelConfig("qwen2", 152_064, 3584, 18_944, 28, 28, 4, 128, tie_word_embeddings=False, qkv_bias=True)
UPDATE = Update([TokenSequence((1,) * 240)], rank=32)  # rows of 256 tokens


def tpu(data, tensor):
    """What the engine asks of the mesh of a TPU slice that is not here."""
    devices = np.asarray([types.SimpleNamespace(platform="tpu")])
    return types.SimpleNamespace(shape={"data": data, "fsdp": 1, "tensor": tensor}, devices=devices)


def planned(count, gib, data=8, tensor=1, update=UPDATE):
    """The plan of `count` adapters of a 7B model in bfloat16 on a TPU slice, with so much memory for each device."""
    params = {"norm": jax.ShapeDtypeStruct((), jnp.bfloat16)}
    model = types.SimpleNamespace(config=SEVEN, params=params, mesh=tpu(data, tensor), tokenizer=None)
    work = plan_work(model, [update] * count, memory_bytes=int(gib * GIB))
    (stream,) = work.chunks[0]
    shapes = sorted({each.shape for own in stream.micro_batches for each in own}, key=lambda shape: shape.time)
    return stream.plan, [(shape.time, stream.plan.slots(shape), shape in stream.plan.remat) for shape in shapes]


def test_activations_are_kept_where_those_of_the_step_that_runs_fit():
    # Eight rows of 256 tokens on each device: 28 layers of 0.11 MB a token are 5.7 GiB, those of 65,536 tokens 182.
    assert planned(64, 10)[1] == [(256, 8, False)]
    assert planned(64, 9)[1] == [(256, 8, True)]


def test_short_rows_keep_activations_where_long_ones_do_not():
    update = UPDATE.replace(sequences=[*UPDATE.sequences, TokenSequence((1,) * 40)])
    assert planned(64, 9, update=update)[1] == [(48, 8, False), (256, 8, True)]


def test_training_steps_are_smaller_rather_than_activations_recomputed():
    plan, steps = planned(1024, 40)  # a quarter of a device's 128 adapters would be 8192 tokens
    assert steps == [(256, 16, False)] and plan.chunk == 1024


def test_fewer_adapters_at_once_leave_room_for_activations():
    # All at once would take 116 GiB without any; the finished ones take 39 in the end.
    plan, steps = planned(1024, 110, update=UPDATE.replace(rank=256))
    assert steps == [(256, 16, False)] and plan.chunk == 256


def test_devices_that_divide_the_features_keep_more():
    assert planned(64, 6)[1] == [(256, 8, True)]
    assert planned(64, 6, tensor=4)[1] == [(256, 8, False)]


def test_devices_that_divide_the_rows_of_one_adapter_keep_more():
    rows = UPDATE.replace(sequences=UPDATE.sequences * 16, batch_size=16)
    assert planned(1, 13, data=1, update=rows)[1] == [(256, 1, True)]
    assert planned(1, 13, data=8, update=rows)[1] == [(256, 1, False)]


def test_with_less_memory_fewer_adapters_are_trained_at_once():
    assert [planned(1024, gib)[0].chunk for gib in (8, 12, 32)] == [32, 128, 1024]


def test_finished_adapters_have_to_fit_too():
    # 128 on each device take 4.8 GiB, of which 80% of 5 GiB have no room.
    with pytest.raises(
        OutOfMemoryError, match="each of 1024 adapters, and the others beside it, of rank 32 .*together"
    ):
        planned(1024, 5)
    assert planned(64, 5)[0].chunk == 64


@pytest.mark.parametrize(("most", "gib", "remat"), [(16, 30, False), (64, 30, True), (16, 15, True)])
def test_a_policy_keeps_activations_where_those_of_the_rows_of_a_step_fit(most, gib, remat):
    # Two rows of 2048 tokens on each device are 17 GiB, since rows do not keep their scores; eight are 68.
    plan = memory.plan_rows(SEVEN, 2048, most, 2, tpu(8, 1), gib * GIB)
    assert plan.remat == remat and plan.tokens >= 2 * 2048


@pytest.mark.parametrize("mesh", [(2, 2, 1), (1, 1, 2)])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("targets", [("q_proj", "v_proj"), ("o_proj", "down_proj"), tuple(PROJECTION_AXES)])
def test_on_a_mesh_the_backward_pass_keeps_what_is_estimated(targets, dtype, mesh):
    config = dataclasses.replace(CONFIG, num_layers=6)
    params = jax.eval_shape(lambda: random_params(config, jax.random.key(0), dtype))
    lora = abstract_lora(config, 2, 1, targets, None)
    lora = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), lora)
    tokens = jax.ShapeDtypeStruct((2, 1, 16), jnp.int32)

    def loss(lora, embedding, params, tokens):
        params = params | {"embed_tokens": embedding}  # with a gradient, so that all layers' inputs have one
        return decoder.forward(params, config, tokens, lora=lora).astype(jnp.float32).sum()

    with jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh(mesh, sharding.AXES)):
        program = jax.make_jaxpr(jax.grad(loss, argnums=(0, 1)))(lora, params["embed_tokens"], params, tokens)
    forward = next(each for each in program.eqns if each.primitive.name == "scan")
    kept = [leaf.aval for leaf in forward.outvars if leaf.aval.shape[0] == 6]
    itemsize, count = np.dtype(dtype).itemsize, 2 * 16
    whole, empty = (
        memory.activation_bytes(each, count, 16, False, itemsize, platform="tpu", targets=targets)
        for each in (config, dataclasses.replace(config, num_layers=0))
    )
    rank_wise = 6 * count * len(targets) * 4  # of rank 1
    assert sum(leaf.size * leaf.dtype.itemsize for leaf in kept) == whole - empty + rank_wise
    assert (6, 32, 48) not in [leaf.shape for leaf in kept]  # no gathered copies of the weights


def test_batches_can_be_made_for_a_given_memory():
    with memory.given(0.5):
        assert memory.available_bytes() == GIB // 2
        with memory.given(None):
            assert memory.available_bytes() != GIB // 2
        assert memory.available_bytes() == GIB // 2
    assert memory.available_bytes() != GIB // 2
    for wrong in (0, -1.0, float("nan"), float("inf")):
        with pytest.raises(InvalidValueError, match=r"config\.free_memory_gib is .*; it must be a positive number"):
            memory.given(wrong)


@pytest.mark.parametrize(("run", "name"), [(train, "quickstart"), (evaluate, "seal/continual")])
def test_a_run_makes_its_batches_for_the_memory_of_its_config(run, name, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(MetricsWriter, "event", lambda *_, **__: seen.append(memory.available_bytes()) or 1 / 0)
    with pytest.raises(ZeroDivisionError):  # the first event ends the run
        run(load_config(name, {"free_memory_gib": "0.25"}), tmp_path / "run")
    assert seen == [GIB // 4]
