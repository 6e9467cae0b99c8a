"""Meshes: sizes that do not fit the devices are refused; one device needs none (tests/sharded has the rest)."""

import jax
import numpy as np
import pytest

from selfadapt.errors import UserError
from selfadapt.models.lora import factor_axes
from selfadapt.parallel import sharding


def test_a_single_device_needs_no_mesh():
    assert sharding.make_mesh(devices=jax.devices()[:1]) is None
    assert sharding.num_shards(None) == 1
    x = np.ones((2, 3))
    assert sharding.shard(x, "adapters", "rows") is x


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"data": 0}, r"config\.mesh\.data is 0; it must be at least 1, or -1"),
        ({"fsdp": -2}, r"config\.mesh\.fsdp is -2"),
        ({"data": -1, "tensor": -1}, r"config\.mesh\.data and \.tensor are both -1"),
        ({"data": 2, "fsdp": 2, "tensor": 2}, "needs 8 devices, and there are 1; set one size to -1"),
        ({"data": -1, "tensor": 3}, "needs a multiple of 3 devices, and there are 1"),
    ],
)
def test_sizes_that_do_not_fit_the_devices_are_named(sizes, message):
    with pytest.raises(UserError, match=message):
        sharding.make_mesh(**sizes, devices=jax.devices()[:1])


class Chip:
    """A chip of a v5e slice."""

    device_kind, platform, process_index = "TPU v5e", "tpu", 0

    def __init__(self, *coords):
        self.coords, self.id = (*coords, 0), hash(coords)


@pytest.mark.parametrize(("sides", "tensor"), [((4, 4), 4), ((2, 4), 8), ((4, 8), 8)])
def test_devices_along_tensor_are_a_ring_of_neighbours_in_a_plane(sides, tensor):
    mesh = sharding.make_mesh(data=-1, tensor=tensor, devices=[Chip(*place) for place in np.ndindex(*sides)])
    places = np.asarray([device.coords for device in mesh.devices.flat]).reshape(-1, tensor, 3)
    assert len({tuple(place) for ring in places for place in ring}) == np.prod(sides)
    assert (np.abs(places - np.roll(places, 1, axis=1)).sum(-1) == 1).all()


def test_logical_axes_of_parameters_and_adapters_map_to_mesh_axes():
    mesh = jax.sharding.AbstractMesh((2, 2, 2), sharding.AXES)
    assert sharding.spec(mesh, (28, 64, 48), ("layers", "embed", "mlp")) == jax.P(None, "fsdp", "tensor")
    assert sharding.spec(mesh, (28, 6, 64, 4), factor_axes("q_proj")[0]) == jax.P(None, None, "tensor", None)
    assert sharding.spec(mesh, (28, 8, 4, 64), factor_axes("o_proj")[1]) == jax.P(
        None, sharding.BATCH_AXES, None, "tensor"
    )
    assert sharding.spec(mesh, (97, 64), ("vocab", "embed")) == jax.P(None, "fsdp")  # 97 is odd


def test_a_mesh_axis_divides_one_axis_of_an_array_at_most():
    mesh = jax.sharding.AbstractMesh((2, 2, 2), sharding.AXES)
    assert tuple(sharding.spec(mesh, (8, 4, 16), ("adapters", "rows", "embed"))) == (("data", "fsdp"), None, None)
