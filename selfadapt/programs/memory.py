"""How much memory a program needs, and how to cut its work so that it fits."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from selfadapt import distributed
from selfadapt import mesh as meshes
from selfadapt.models.config import ModelConfig
from selfadapt.models.lora import Adapters, resolve_targets
from selfadapt.programs import host
from selfadapt.programs.schedule import Item, Shape, power_of_two
from selfadapt.types import Update

SHARE = 0.8  # of the free memory; the rest is for what the compiler adds
# On a CPU small ticks stay in cache (1024 tokens take twice as long a token at 1M parameters); an
# accelerator wants products of thousands of rows.
TICK_TOKENS = {"cpu": (0, 512)}
ACCELERATOR_TICK_TOKENS = (4096, 65536)


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


def adapter_bytes(config: ModelConfig, rank: int, targets: Sequence[str]) -> int:
    """Bytes of one adapter's float32 parameters."""
    shapes = config.projections()
    return sum(4 * config.num_layers * rank * sum(shapes[name]) for name in targets)


def activation_bytes(config: ModelConfig, tokens: int, time: int, remat: bool, itemsize: int) -> int:
    """Bytes of activations that the backward pass of `tokens` tokens in rows of `time` keeps, roughly."""
    wide = config.num_heads * config.head_dim + 2 * config.num_kv_heads * config.head_dim
    layer = tokens * (itemsize * (6 * config.hidden_size + 3 * wide + 4 * config.intermediate_size))
    layer += tokens * 2 * 4 * config.num_heads * time
    if not remat:
        return config.num_layers * layer
    return layer + config.num_layers * tokens * itemsize * config.hidden_size


@dataclasses.dataclass(frozen=True)
class AdaptPlan:
    """How `adapt` cuts its work.

    Attributes:
      wave: adapters trained at once.
      stream: adapters of a wave whose ticks follow each other; streams run side by side.
      lane: adapters of a stream that one lane of the mesh holds; all of them without a mesh.
      tick_tokens: the least and the most tokens that a tick aims at, on each lane.
      remat: whether activations are recomputed in the backward pass.
    """

    wave: int
    stream: int
    lane: int
    tick_tokens: tuple[int, int]
    remat: bool

    def slots(self, shape: Shape) -> int:
        """Adapters a tick on each lane, a power of two.

        A quarter of the lane's, since adapters of different sequence lengths wait in different queues and
        a tick should be full; within the tokens that suit the machine. It depends on the lane's size
        and the item's shape only, never on what the neighbours hold.
        """
        item = shape.rows * shape.time
        least, most = self.tick_tokens
        slots = max(power_of_two(self.lane / 4), power_of_two(least / item))
        while slots > 1 and slots * item > most:
            slots //= 2
        return min(slots, power_of_two(self.lane))


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

    Memory is that of each device. A mesh's lanes divide the adapters of a wave (the rows, where there is only
    one); its `tensor` axis divides the wider part of what an adapter and a token take, which is left as a reserve.

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
    # Parameters, two moments, the gradient of the adapters in a tick; the accumulated one if steps have parts.
    each = adapter_bytes(config, rank, targets) * (5 if parts else 4)
    item = max((i.shape.rows * i.shape.time for stream in streams for i in stream), default=1)
    time = max((i.shape.time for stream in streams for i in stream), default=1)
    itemsize = np.dtype(params["norm"].dtype).itemsize
    least, most = TICK_TOKENS.get(host.platform(mesh), ACCELERATOR_TICK_TOKENS)
    tokens = max(item, most)
    streams, lanes = host.parallel_streams(mesh), 1 if len(updates) == 1 else meshes.lanes(mesh)

    def fits(tokens: int, remat: bool, adapters: int) -> bool:
        at_once = tokens * min(streams, adapters)
        return activation_bytes(config, at_once, time, remat, itemsize) + -(-adapters // lanes) * each <= budget

    wave = len(updates)
    remat = not fits(tokens, False, wave)
    while tokens > item and not fits(tokens, remat, wave):
        tokens = max(item, tokens // 2)
    while wave > lanes and not fits(tokens, remat, wave):
        wave = meshes.round_up(-(-wave // 2), lanes)
    if not fits(tokens, remat, wave):
        need = activation_bytes(config, tokens, time, remat, itemsize) + each
        raise MemoryError(
            f"one adapter of rank {rank} on rows of {time} tokens needs about {need / 2**20:.0f} MiB and "
            f"{budget / 2**20:.0f} MiB are free; shorten the sequences or lower the rank or the batch size"
        )
    stream = -(-wave // streams)
    lane = -(-stream // lanes)
    return AdaptPlan(wave=wave, stream=stream, lane=lane, tick_tokens=(min(least, tokens), tokens), remat=remat)
