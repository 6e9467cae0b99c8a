"""How much memory a program needs, and how to cut its work so that it fits."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from selfadapt.engine import runtime
from selfadapt.engine.adapt.schedule import Item, Shape, power_of_two
from selfadapt.errors import OutOfMemoryError
from selfadapt.models.config import PROJECTION_AXES, ModelConfig
from selfadapt.models.lora import Adapters, resolve_targets
from selfadapt.parallel import distributed, sharding
from selfadapt.types import Update

SHARE = 0.8  # of the free memory; the rest is for what the compiler adds
# On a CPU small ticks stay in cache (1024 tokens take twice as long a token at 1M parameters); an
# accelerator wants products of thousands of rows.
TICK_TOKENS = {"cpu": (0, 512)}
ACCELERATOR_TICK_TOKENS = (4096, 65536)
# What a tick holds of each adapter in it, in sizes of its parameters: during the passes (factors, gradient), and when
# activations are gone and the step is taken (moments and new values too). From programs compiled for TPUs.
PASS_COPIES, STEP_COPIES = 3, 9


def available_bytes() -> int:
    """Returns the memory that is free on a device: its own, or its share of what the host has left.

    All processes of a run get the same answer, that of the first: they must cut their work alike.
    """
    return distributed.broadcast(_free_bytes() // (jax.local_device_count() if jax.default_backend() == "cpu" else 1))


def _free_bytes() -> int:
    statistics = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in statistics:
        return statistics["bytes_limit"] - statistics["bytes_in_use"]
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    with contextlib.suppress(OSError, ValueError, StopIteration), open("/proc/meminfo") as file:
        free = next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable:"))
    # A container's limit; the file holds "max" where there is none.
    group = "/sys/fs/cgroup/memory"
    with contextlib.suppress(OSError, ValueError), open(f"{group}.max") as limit, open(f"{group}.current") as used:
        free = min(free, int(limit.read()) - int(used.read()))
    return max(free, 0)


def adapter_bytes(config: ModelConfig, rank: int, targets: Sequence[str], tensor: int = 1) -> int:
    """Bytes of one adapter's float32 parameters, on each of `tensor` devices that divide heads and MLP features."""
    features = 0
    for name in targets:
        for axis, size in zip(PROJECTION_AXES[name], config.projections()[name], strict=True):
            features += size if axis == "hidden" or size % tensor else size // tensor
    return 4 * config.num_layers * rank * features


def activation_bytes(config: ModelConfig, tokens: int, time: int, remat: bool, itemsize: int) -> int:
    """Bytes of activations that the backward pass of `tokens` tokens in rows of `time` keeps, roughly."""
    wide = config.num_heads * config.head_dim + 2 * config.num_kv_heads * config.head_dim
    layer = tokens * (itemsize * (6 * config.hidden_size + 3 * wide + 4 * config.intermediate_size))
    layer += tokens * 2 * 4 * config.num_heads * time
    if not remat:
        return config.num_layers * layer
    return layer + config.num_layers * tokens * itemsize * config.hidden_size


def divided(adapters: int, mesh: Any) -> tuple[int, int]:
    """Returns how many parts a mesh divides adapters trained together into, and the rows of each.

    A single adapter's rows are divided over the shards; several adapters are divided themselves.
    """
    shards = sharding.shards(mesh)
    return (1, shards) if adapters == 1 else (shards, 1)


@dataclasses.dataclass(frozen=True)
class AdaptPlan:
    """How `adapt` cuts its work.

    Attributes:
      wave: adapters trained at once.
      stream: adapters of a wave whose ticks follow each other; streams run side by side.
      shard: adapters of a stream that one shard of the mesh holds; all of them without a mesh.
      tick_tokens: the least and the most tokens that a tick aims at, on each shard.
      remat: whether activations are recomputed in the backward pass.
    """

    wave: int
    stream: int
    shard: int
    tick_tokens: tuple[int, int]
    remat: bool

    def slots(self, shape: Shape) -> int:
        """Adapters a tick on each shard, a power of two.

        A quarter of the shard's, since adapters of different sequence lengths wait in different queues and
        a tick should be full; within the tokens that suit the machine. It depends on the shard's size
        and the item's shape only, never on what the neighbours hold.
        """
        item = shape.rows * shape.time
        least, most = self.tick_tokens
        slots = max(power_of_two(self.shard / 4), power_of_two(least / item))
        while slots > 1 and slots * item > most:
            slots //= 2
        return min(slots, power_of_two(self.shard))


def plan_adapt(
    config: ModelConfig,
    updates: Sequence[Update],
    init: Adapters | None,
    streams: Sequence[Sequence[Item]],
    params: Any,
    budget: int | None,
    mesh: Any = None,
) -> AdaptPlan:
    """Chooses waves, tick sizes and rematerialisation so that training fits into memory.

    Memory is that of each device. A mesh's shards divide the adapters of a wave (the rows, where there is only
    one), and its `tensor` axis the wider features. What these save of the activations is left as a reserve.

    Raises:
      MemoryError: not even one adapter fits.
    """
    budget = int(SHARE * available_bytes()) if budget is None else budget
    if init is None:
        rank = max(update.rank for update in updates)
        targets = sorted({name for update in updates for name in resolve_targets(update.targets, config)})
    else:
        rank, targets = next(iter(init.lora.a.values())).shape[-1], sorted(init.lora.a)
    parts = any(not item.shape.whole for stream in streams for item in stream)
    each = adapter_bytes(config, rank, targets, 1 if mesh is None else mesh.shape["tensor"])
    kept = 4 if parts else 3  # parameters and two moments; the accumulated gradient if steps have parts
    shapes = {item.shape for stream in streams for item in stream} or {Shape(1, 1, False, True)}
    item = max(shape.rows * shape.time for shape in shapes)
    smallest = min(shapes, key=lambda shape: shape.rows * shape.time)
    time = max(shape.time for shape in shapes)
    itemsize = np.dtype(params["norm"].dtype).itemsize
    least, most = TICK_TOKENS.get(runtime.platform(mesh), ACCELERATOR_TICK_TOKENS)
    tokens = max(item, most)
    streams, (shards, _) = runtime.parallel_streams(mesh), divided(len(updates), mesh)

    def plan(tokens: int, remat: bool, wave: int) -> AdaptPlan:
        stream = -(-wave // streams)
        shard = -(-stream // shards)
        return AdaptPlan(wave=wave, stream=stream, shard=shard, tick_tokens=(min(least, tokens), tokens), remat=remat)

    def needed(tokens: int, remat: bool, wave: int) -> int:
        at_once = min(streams, wave)
        slots = at_once * plan(tokens, remat, wave).slots(smallest) * each
        activations = activation_bytes(config, tokens * at_once, time, remat, itemsize)
        return -(-wave // shards) * kept * each + max(activations + PASS_COPIES * slots, STEP_COPIES * slots)

    def fits(tokens: int, remat: bool, wave: int) -> bool:
        return needed(tokens, remat, wave) <= budget

    wave = len(updates)
    remat = not fits(tokens, False, wave)
    # Small ticks are slow where each one reads all weights for few tokens, so fewer adapters at once come before them.
    while tokens > max(item, least) and not fits(tokens, remat, wave):
        tokens = max(item, least, tokens // 2)
    while wave > shards and not fits(tokens, remat, wave):
        wave = sharding.round_up(-(-wave // 2), shards)
    while tokens > item and not fits(tokens, remat, wave):
        tokens = max(item, tokens // 2)
    if not fits(tokens, remat, wave):
        raise OutOfMemoryError(
            f"one adapter of rank {rank} on rows of {time} tokens needs about "
            f"{needed(tokens, remat, wave) / 2**20:.0f} MiB and {budget / 2**20:.0f} MiB are free; shorten the "
            "sequences or lower the rank or the batch size"
        )
    return plan(tokens, remat, wave)
