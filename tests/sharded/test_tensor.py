"""The products of a block over `tensor`: what devices send each other, and time or dtypes that need special care."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selfadapt.models import decoder, hf
from selfadapt.models.lora import Lora
from selfadapt.parallel import sharding, tensor
from selfadapt.parallel.sharding import make_mesh
from selfadapt.plan import hlo
from tests.engine.tiny import CONFIG

ADAPTERS, TIME, RANK = 4, 16, 2
MODEL = dataclasses.replace(CONFIG, num_layers=1, hidden_size=64, output_bias=True)


def example(model, mesh, time=TIME, dtype="float32", adapters=ADAPTERS):
    """Returns a loss of adapters of all projections, and its arguments."""
    generator = np.random.default_rng(0)

    def draw(shape, dtype, axes):
        return sharding.put(mesh, np.asarray(jnp.asarray(0.1 * generator.normal(size=shape), dtype)), axes)

    params = {"layers": {}}
    for weight in hf.weights(model):
        leaf = draw(weight.array_shape(model.num_layers), dtype, weight.axes)
        (params["layers"] if weight.stacked else params)[weight.path[-1]] = leaf
    sizes = model.projections()
    a = {name: (model.num_layers, adapters, inside, RANK) for name, (inside, _) in sizes.items()}
    b = {name: (model.num_layers, adapters, RANK, outside) for name, (_, outside) in sizes.items()}
    lora = Lora(a, b, (adapters,)).map(lambda shape, axes: draw(shape, "float32", axes))
    tokens = generator.integers(0, 97, (adapters, 1, time))

    def loss(lora, params):
        hidden = decoder.forward(params, model, tokens, lora=lora).astype(jnp.float32)
        return (hidden * np.linspace(-1, 1, hidden.size).reshape(hidden.shape)).sum()

    return loss, (lora, params)


def gradient(mesh, loss, arguments):
    """Compiles the gradient of a loss."""
    with sharding.using(mesh):
        return jax.jit(jax.value_and_grad(loss)).lower(*arguments).compile()


def assert_gradients_equal_those_of_one_device(mesh, tolerance, *sizes, **options):
    found = []
    for each in (mesh, None):
        loss, arguments = example(MODEL, each, *sizes, **options)
        found.append(jax.tree.leaves(gradient(each, loss, arguments)(*arguments)))
    for ours, theirs in zip(*found, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance * np.abs(theirs).max())


@pytest.mark.parametrize(("time", "dtype", "tolerance"), [(13, "float32", 1e-4), (TIME, "bfloat16", 0.1)])
def test_gradients_equal_those_of_one_device(time, dtype, tolerance):
    assert_gradients_equal_those_of_one_device(make_mesh(data=1, tensor=2), tolerance, time, dtype)


# Tokens of a product: 64 on each shard make four products of a chunk or two of two. Chunks have halves of four
# adapters, of the time of one, or none. bfloat16 rounds sums over devices, here in the order of the ring.
@pytest.mark.parametrize(
    ("tokens", "adapters", "time", "dtype", "tolerance"),
    [
        (32, 4, TIME, "float32", 1e-4),
        pytest.param(8, 1, 24, "float32", 1e-4, marks=pytest.mark.slow),
        pytest.param(1, 1, 12, "float32", 1e-4, marks=pytest.mark.slow),
        pytest.param(16, 4, TIME, "bfloat16", 0.1, marks=pytest.mark.slow),
    ],
)
def test_gradients_of_products_in_pieces_equal_those_of_one_device(
    tokens, adapters, time, dtype, tolerance, monkeypatch
):
    monkeypatch.setattr(tensor, "PRODUCT_TOKENS", tokens)
    assert_gradients_equal_those_of_one_device(make_mesh(data=1, tensor=4), tolerance, time, dtype, adapters=adapters)


def test_products_in_pieces_send_halves_of_chunks_around_the_ring(monkeypatch):
    monkeypatch.setattr(tensor, "PRODUCT_TOKENS", 1)
    model = dataclasses.replace(MODEL, num_layers=5, num_kv_heads=4)
    mesh = make_mesh(data=2, tensor=4)
    half = 4 * ADAPTERS // 2 * TIME // 4 * model.hidden_size // 2
    sent = {}
    for each in hlo.Program(gradient(mesh, *example(model, mesh)).as_text()).collectives():
        if each.times == model.num_layers and each.bytes >= half and each.kind != "all-reduce":  # those are of ranks
            way = (each.groups[0][1] - each.groups[0][0]) % 4
            sent[each.kind, each.bytes, way] = sent.get((each.kind, each.bytes, way), 0) + 1
    # Four gathers and four scatters, of three steps in each direction.
    assert sent == {("collective-permute", half, 1): 8 * 3, ("collective-permute", half, 3): 8 * 3}


def test_a_layer_gathers_and_scatters_its_activations_twice_in_each_pass_and_no_factor():
    model, mesh = dataclasses.replace(MODEL, num_layers=5), make_mesh(data=2, tensor=2)
    program = gradient(mesh, *example(model, mesh))
    hidden = 4 * ADAPTERS // 2 * TIME * model.hidden_size
    large = {}
    for each in hlo.Program(program.as_text()).collectives():
        if each.axes(mesh.shape) == ("tensor",) and each.times == model.num_layers and each.bytes >= hidden:
            large[each.kind] = large.get(each.kind, 0) + each.bytes / hidden
    assert large == {"all-gather": 4, "reduce-scatter": 4}


def test_the_backward_pass_of_scanned_layers_is_given_activations_and_no_weights():
    model, mesh = dataclasses.replace(MODEL, num_layers=5), make_mesh(data=2, tensor=2)
    loss, arguments = example(model, mesh)
    with sharding.using(mesh):
        equations = jax.make_jaxpr(jax.grad(loss))(*arguments).eqns
    forward, _ = (each for each in equations if each.primitive.name == "scan")
    kept = [leaf.aval.shape for leaf in forward.outvars if leaf.aval.shape[0] == model.num_layers]
    assert kept and min(map(len, kept)) > 3  # a weight has layers, inputs and outputs
