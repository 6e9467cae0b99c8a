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
from selfadapt.engine.adapt.optimizers import optimizer_of, state_copies
from selfadapt.engine.adapt.schedule import MicroBatch, Shape, power_of_two
from selfadapt.errors import OutOfMemoryError
from selfadapt.models.attention import LONGEST_AT_ONCE, score_bytes
from selfadapt.models.config import PROJECTION_AXES, ModelConfig
from selfadapt.models.lora import Adapters, abstract_lora, resolve_targets
from selfadapt.parallel import distributed, sharding
from selfadapt.types import Update

SHARE = 0.8  # of the free memory; the rest is for what the compiler adds
# The least and the most tokens of a training step. On a CPU small ones stay in cache (1024 tokens take twice as long
# per token at 1M parameters); an accelerator needs products of thousands of rows.
STEP_TOKENS = {"cpu": (0, 512)}
ACCELERATOR_STEP_TOKENS = (4096, 65536)
# What a training step holds of each adapter in it, in sizes of its parameters: during the passes, and when activations
# are freed and the step is taken (then the optimizer's state too, old and new). From programs compiled for TPUs.
PASS_COPIES, STEP_COPIES = 3, 5
FROZEN_COPIES = 2  # of a frozen adapter in a training step: as it is gathered, and with the layers first


def available_bytes() -> int:
    """Returns the free memory per device in bytes: of the device, or its share of the host's on a CPU.

    All processes of a run get the value of process 0, since they must divide their work in the same way.
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
    """Returns the bytes of one adapter's float32 parameters on each of `tensor` devices that divide its features."""
    features = 0
    for name in targets:
        for axis, size in zip(PROJECTION_AXES[name], config.projections()[name], strict=True):
            features += size if axis == "hidden" or size % tensor else size // tensor
    return 4 * config.num_layers * rank * features


def activation_bytes(config: ModelConfig, tokens: int, time: int, remat: bool, itemsize: int) -> int:
    """Estimates the bytes of activations that are kept for the backward pass of `tokens` tokens in rows of `time`."""
    wide = config.num_heads * config.head_dim + 2 * config.num_kv_heads * config.head_dim
    layer = tokens * (itemsize * (6 * config.hidden_size + 3 * wide + 4 * config.intermediate_size))
    scores = tokens * score_bytes(config, time)
    kept = scores if time <= LONGEST_AT_ONCE else 0  # of each layer; long rows compute them again
    if not remat:
        return scores - kept + config.num_layers * (layer + kept)
    return layer + scores + config.num_layers * tokens * itemsize * config.hidden_size


def divided(adapters: int, mesh: Any) -> tuple[int, int]:
    """Returns how many parts a mesh divides adapters trained together into, and the rows of each.

    A single adapter's rows are divided over the shards; several adapters are divided themselves.
    """
    shards = sharding.num_shards(mesh)
    return (1, shards) if adapters == 1 else (shards, 1)


@dataclasses.dataclass(frozen=True)
class AdaptPlan:
    """How `adapt` divides its adapters.

    Attributes:
      chunk: adapters that are trained at once, since more do not fit in memory.
      stream: adapters of a chunk that share training steps; the streams of a chunk run side by side.
      shard: adapters of a stream that one shard of the mesh holds; all of them without a mesh.
      step_tokens: the least and the most tokens that a training step aims at, on each shard.
      remat: whether activations are recomputed in the backward pass.
    """

    chunk: int
    stream: int
    shard: int
    step_tokens: tuple[int, int]
    remat: bool

    def slots(self, shape: Shape) -> int:
        """Returns how many adapters of each shard a training step of a shape has slots for, a power of two.

        That is a quarter of the shard's adapters, since adapters of different sequence lengths wait in different
        queues and a training step should be full, within the tokens that suit the machine. It depends on the size of
        the shard and the shape only, never on the data of other adapters.
        """
        tokens = shape.tokens
        least, most = self.step_tokens
        slots = max(power_of_two(self.shard / 4), power_of_two(least / tokens))
        while slots > 1 and slots * tokens > most:
            slots //= 2
        return min(slots, power_of_two(self.shard))


def plan_adapt(
    config: ModelConfig,
    updates: Sequence[Update],
    init: Adapters | None,
    micro_batches: Sequence[Sequence[MicroBatch]],
    params: Any,
    budget: int | None,
    mesh: Any = None,
    on: Adapters | None = None,
) -> AdaptPlan:
    """Chooses chunks, the size of training steps and rematerialization so that training fits in memory.

    Memory is that of each device. A mesh's shards divide the adapters of a chunk (the rows, where there is only
    one), and its `tensor` axis the wider features. What these save of the activations is left as a reserve.

    Args:
      config: the architecture.
      updates: the updates, of one optimizer.
      init: adapters to start from, `None` for new ones.
      micro_batches: the micro-batches of each update.
      params: the base parameters, or their `jax.ShapeDtypeStruct`s.
      budget: bytes for adapters and activations on each device; what is free by default.
      mesh: the mesh.
      on: frozen adapters under those in training, if any.

    Raises:
      OutOfMemoryError: not even one adapter fits.
    """
    budget = int(SHARE * available_bytes()) if budget is None else budget
    tensor = 1 if mesh is None else mesh.shape["tensor"]
    if init is None:
        rank = max(update.rank for update in updates)
        targets = sorted({name for update in updates for name in resolve_targets(update.targets, config)})
    else:
        rank, targets = next(iter(init.lora.a.values())).shape[-1], sorted(init.lora.a)
    parts = any(not one.shape.whole for own in micro_batches for one in own)
    each = adapter_bytes(config, rank, targets, tensor)
    under = (
        0 if on is None else adapter_bytes(config, next(iter(on.lora.a.values())).shape[-1], list(on.lora.a), tensor)
    )
    factors = abstract_lora(config, 1, rank, targets, None)
    moments = state_copies(optimizer_of(updates[0]), (factors.a, factors.b))
    kept = 1 + moments + parts  # parameters and the optimizer's state; the accumulated gradient if steps have parts
    shapes = {one.shape for own in micro_batches for one in own} or {Shape(1, 1, False, True)}
    largest = max(shape.tokens for shape in shapes)
    smallest = min(shapes, key=lambda shape: shape.tokens)
    time = max(max(shape.time, shape.anchor_time) for shape in shapes)
    itemsize = np.dtype(params["norm"].dtype).itemsize
    least, most = STEP_TOKENS.get(runtime.platform(mesh), ACCELERATOR_STEP_TOKENS)
    tokens = max(largest, most)
    streams, (shards, _) = runtime.parallel_streams(mesh), divided(len(updates), mesh)

    def plan(tokens: int, remat: bool, chunk: int) -> AdaptPlan:
        stream = -(-chunk // streams)
        shard = -(-stream // shards)
        return AdaptPlan(chunk=chunk, stream=stream, shard=shard, step_tokens=(min(least, tokens), tokens), remat=remat)

    def needed(tokens: int, remat: bool, chunk: int) -> float:
        at_once = min(streams, chunk)
        slots = at_once * plan(tokens, remat, chunk).slots(smallest)
        activations = activation_bytes(config, tokens * at_once, time, remat, itemsize)
        passing = activations + slots * (PASS_COPIES * each + FROZEN_COPIES * under)
        stepping = (STEP_COPIES + 2 * moments) * slots * each
        return -(-chunk // shards) * (kept * each + under) + max(passing, stepping)

    def fits(tokens: int, remat: bool, chunk: int) -> bool:
        return needed(tokens, remat, chunk) <= budget

    chunk = len(updates)
    remat = not fits(tokens, False, chunk)
    # Small training steps are slow where each one reads all weights for few tokens, so fewer adapters at once are tried
    # first.
    while tokens > max(largest, least) and not fits(tokens, remat, chunk):
        tokens = max(largest, least, tokens // 2)
    while chunk > shards and not fits(tokens, remat, chunk):
        chunk = sharding.round_up(-(-chunk // 2), shards)
    while tokens > largest and not fits(tokens, remat, chunk):
        tokens = max(largest, tokens // 2)
    if not fits(tokens, remat, chunk):
        raise OutOfMemoryError(
            f"one adapter of rank {rank} on rows of {time} tokens needs about "
            f"{needed(tokens, remat, chunk) / 2**20:.0f} MiB and {budget / 2**20:.0f} MiB are free; shorten the "
            "sequences or lower the rank or the batch size"
        )
    return plan(tokens, remat, chunk)


@dataclasses.dataclass(frozen=True)
class RowsPlan:
    """How the rows that a policy is trained on are divided.

    Attributes:
      tokens: the most tokens of a micro-batch on each shard; a single row may have more.
      remat: whether activations are recomputed in the backward pass.
    """

    tokens: int
    remat: bool


def plan_rows(config: ModelConfig, longest: int, itemsize: int, mesh: Any, budget: int) -> RowsPlan:
    """Chooses the size of micro-batches and rematerialization so that a forward and backward pass fits in memory.

    Args:
      config: the architecture.
      longest: tokens of the longest row.
      itemsize: bytes of a parameter.
      mesh: the mesh.
      budget: bytes for activations on each device.

    Raises:
      OutOfMemoryError: not even one row fits.
    """
    _, tokens = STEP_TOKENS.get(runtime.platform(mesh), ACCELERATOR_STEP_TOKENS)
    tokens = max(tokens, longest)
    remat = activation_bytes(config, tokens, longest, False, itemsize) > budget
    while tokens > longest and activation_bytes(config, tokens, longest, remat, itemsize) > budget:
        tokens = max(longest, tokens // 2)
    if (needed := activation_bytes(config, tokens, longest, remat, itemsize)) > budget:
        raise OutOfMemoryError(
            f"training on one text of {longest} tokens needs about {needed / 2**20:.0f} MiB and "
            f"{budget / 2**20:.0f} MiB are free; shorten prompts or edits"
        )
    return RowsPlan(tokens, remat)
