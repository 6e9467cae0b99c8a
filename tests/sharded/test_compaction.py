"""Compaction moves rows of the base model from shard to shard."""

import jax
import numpy as np
import pytest

from selfadapt.engine.generate import programs
from selfadapt.engine.generate.choose import Choice
from selfadapt.engine.generate.live import NOWHERE, LiveRows
from selfadapt.models.cache import Cache
from selfadapt.parallel import sharding
from selfadapt.plan import hlo

ROWS, SLOTS = 32, 3


@pytest.mark.parametrize("moving", [True, False])
def test_rows_move_with_all_that_belongs_to_them(mesh, moving):
    shards, rows = sharding.num_shards(mesh), np.arange(ROWS, dtype=np.int32)
    numbers = np.arange(2 * ROWS * 8 * SLOTS * 4, dtype=np.float32).reshape(2, ROWS, 8, SLOTS, 4)
    positions = rows[:, None] + np.arange(SLOTS)
    cache = Cache(k=(numbers,), v=tuple(-numbers), positions=positions, slot_axes=(-2, -2))  # stacked and unrolled
    with sharding.using(mesh):
        cache = jax.jit(Cache.sharded)(cache)
    of_rows = {"tokens": rows[None] + 100, "positions": rows[None] + 200, "done": rows[None] % 3 == 0}
    state = programs.DecodeState(cache=cache, slot=np.int32(7), step=np.int32(8), **of_rows)
    choice = Choice(keys=np.stack([rows, -rows], -1)[None], temperature=rows[None], top_p=-rows[None], top_k=rows[None])

    done = rows >= ROWS // 4 if moving else rows % 4 > 0  # all live rows are on one shard or two, or as many on each
    smaller = LiveRows.all(1, ROWS, shards).compacted(done, grows=True, count=1)
    assert (smaller.sent is not None) == (moving and shards > 1)
    with sharding.using(mesh):
        program = programs.compact.lower(state, choice, smaller.rows, smaller.sent, 1, SLOTS + 2).compile()
        after, chosen = program(state, choice, smaller.rows, smaller.sent)

    (places,) = smaller.live.places
    here = places != NOWHERE
    places = places[here]
    assert sorted(places) == np.flatnonzero(~done).tolist()
    found = np.stack([*after.cache.k, np.stack(after.cache.v)])[:, :, here]
    np.testing.assert_array_equal(found[..., :SLOTS, :], np.stack([numbers, -numbers])[:, :, places])
    assert not found[..., SLOTS:, :].any()
    wanted = np.pad(positions[places], [(0, 0), (0, 2)], constant_values=-1)
    np.testing.assert_array_equal(np.asarray(after.cache.positions)[here], wanted)
    pairs = [(getattr(after, name), leaf) for name, leaf in of_rows.items()]
    for ours, before in [*pairs, *zip(jax.tree.leaves(chosen), jax.tree.leaves(choice), strict=True)]:
        np.testing.assert_array_equal(np.asarray(ours)[0, here], before[0, places])

    for leaf, before in zip(jax.tree.leaves(after.cache), jax.tree.leaves(cache), strict=True):
        assert leaf.sharding.is_equivalent_to(before.sharding, leaf.ndim)
    crossing = {(each.kind, *each.axes(mesh.shape)) for each in hlo.Program(program.as_text()).collectives()}
    batch = [name for name in sharding.BATCH_AXES if mesh.shape[name] > 1]
    assert crossing == ({("all-to-all", *batch)} if smaller.sent is not None else set())
