"""Compaction moves rows of the base model from shard to shard, and new rows take the places of others."""

import jax
import numpy as np
import pytest

from selfadapt.engine.generate import programs
from selfadapt.engine.generate.live import NOWHERE, LiveRows
from selfadapt.models.cache import Cache
from selfadapt.parallel import sharding
from selfadapt.plan import hlo

ROWS, SLOTS = 32, 3


def state_of(mesh, rows):
    """Returns a state whose values are made of the numbers of rows, `[R]`."""
    numbers = np.arange(2 * len(rows) * 8 * SLOTS * 4, dtype=np.float32).reshape(2, len(rows), 8, SLOTS, 4)
    numbers += rows.max() * 1000
    positions = rows[:, None] + np.arange(SLOTS)
    cache = Cache(k=(numbers,), v=tuple(-numbers), positions=positions, slot_axes=(-2, -2))  # stacked and unrolled
    with sharding.using(mesh):
        cache = jax.jit(Cache.sharded)(cache)
    of_rows = {"tokens": rows + 100, "positions": rows + 200, "step": rows + 300, "done": rows % 3 == 0}
    return programs.DecodeState(cache=cache, **{name: leaf[None] for name, leaf in of_rows.items()})


def by_row(state):
    """Returns every leaf with the rows as its first axis."""
    cache = [np.moveaxis(np.asarray(side), -4, 0) for side in (*state.cache.k, *state.cache.v)]
    return [*cache, np.asarray(state.cache.positions), *(np.asarray(leaf)[0] for leaf in state.by_row().values())]


@pytest.mark.parametrize("moving", [True, False])
def test_rows_move_with_all_that_belongs_to_them(mesh, moving):
    shards, rows = sharding.num_shards(mesh), np.arange(ROWS, dtype=np.int32)
    state = state_of(mesh, rows)
    before = by_row(state)
    done = rows >= ROWS // 4 if moving else rows % 4 > 0  # all live rows are on one shard or two, or as many on each
    smaller = LiveRows.all(1, ROWS, shards).compacted(done, grows=True, count=1)
    assert (smaller.sent is not None) == (moving and shards > 1)
    with sharding.using(mesh):
        program = programs.compact.lower(state, smaller.rows, smaller.sent, 1, SLOTS + 2).compile()
        after = program(state, smaller.rows, smaller.sent)

    (places,) = smaller.live.places
    here = places != NOWHERE
    places = places[here]
    assert sorted(places) == np.flatnonzero(~done).tolist()
    assert (np.asarray(after.cache.positions)[here, SLOTS:] == -1).all()
    for side in (*after.cache.k, *after.cache.v):
        assert not np.asarray(side)[..., here, :, SLOTS:, :].any()
    grown = by_row(after)
    for ours, old in zip(grown, before, strict=True):
        ours = ours[here][tuple(slice(size) for size in (None, *old.shape[1:]))]  # without the new slots
        np.testing.assert_array_equal(ours, old[places])

    for leaf, old in zip(jax.tree.leaves(after.cache), jax.tree.leaves(state.cache), strict=True):
        assert leaf.sharding.is_equivalent_to(old.sharding, leaf.ndim)
    crossing = {(each.kind, *each.axes(mesh.shape)) for each in hlo.Program(program.as_text()).collectives()}
    batch = [name for name in sharding.BATCH_AXES if mesh.shape[name] > 1]
    assert crossing == ({("all-to-all", *batch)} if smaller.sent is not None else set())


def test_new_rows_take_their_places_on_each_shard(mesh):
    shards = sharding.num_shards(mesh)
    size, count = ROWS // shards, 2
    state, new = (state_of(mesh, np.arange(rows, dtype=np.int32)) for rows in (ROWS, shards * count))
    places = np.stack([np.random.default_rng(shard).permutation(size)[:count] for shard in range(shards)])
    places[0, 1] = size  # padding
    wanted = [leaf.copy() for leaf in by_row(state)]
    for leaf, more in zip(wanted, by_row(new), strict=True):
        for shard, row in np.argwhere(places < size):
            leaf[shard * size + places[shard, row]] = more[shard * count + row]
    with sharding.using(mesh):
        program = programs.fill.lower(state, new, places).compile()
        after = program(state, new, places)
    for ours, leaf in zip(by_row(after), wanted, strict=True):
        np.testing.assert_array_equal(ours, leaf)
    assert not hlo.Program(program.as_text()).collectives()
