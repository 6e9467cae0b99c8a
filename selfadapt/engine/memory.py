"""How much memory a program needs, and how to cut its work so that it fits."""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import os
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from selfadapt.engine import runtime, vocabulary
from selfadapt.engine.adapt.optimizers import optimizer_of, state_copies
from selfadapt.engine.adapt.schedule import MicroBatch, Shape, power_of_two
from selfadapt.errors import InvalidValueError, OutOfMemoryError
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
SHARED_INPUTS = (("q_proj", "k_proj", "v_proj"), ("o_proj",), ("gate_proj", "up_proj"), ("down_proj",))  # of a layer
LOGITS_COPIES = 2  # that the loss of a chunk holds
FROZEN_COPIES = 2  # of a frozen adapter in a training step: as it is gathered, and with the layers first


_given: contextvars.ContextVar[int | None] = contextvars.ContextVar("free memory", default=None)


def given(gib: float | None) -> contextlib.AbstractContextManager[None]:
    """Returns a context in which each device has as much free memory for every batch; `None` leaves what there is.

    The shapes of batches follow the free memory, which is never quite the same twice. With a given one they depend on
    the work alone.

    Raises:
      InvalidValueError: it is not a positive number.
    """
    size = given_bytes(gib)

    @contextlib.contextmanager
    def using() -> Iterator[None]:
        token = _given.set(size)
        try:
            yield
        finally:
            _given.reset(token)

    return using()


def given_bytes(gib: float | None) -> int | None:
    """Returns `config.free_memory_gib` in bytes.

    Raises:
      InvalidValueError: it is not a positive number.
    """
    if gib is None:
        return None
    if not 0 < gib < float("inf"):
        raise InvalidValueError(f"config.free_memory_gib is {gib}; it must be a positive number, or None")
    return int(gib * 2**30)


def available_bytes() -> int:
    """Returns the free memory per device in bytes: of the device, or its share of the host's on a CPU.

    All processes of a run get the value of process 0, since they must divide their work in the same way. In a context
    of `given` it is what that says.
    """
    if (found := _given.get()) is not None:
        return found
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


def batch_bytes(memory_bytes: int | None = None) -> int:
    """Returns the bytes on each device that a batch may take: those given, or `SHARE` of the free memory."""
    return int(SHARE * available_bytes()) if memory_bytes is None else memory_bytes


def adapter_bytes(config: ModelConfig, rank: int, targets: Sequence[str], tensor: int = 1) -> int:
    """Returns the bytes of one adapter's float32 parameters on each of `tensor` devices that divide its features."""
    features = 0
    for name in targets:
        features += sum(_part(size, tensor) for size in config.projections()[name])
    return 4 * config.num_layers * rank * features


def activation_bytes(
    config: ModelConfig,
    tokens: int,
    time: int,
    remat: bool,
    itemsize: int,
    tensor: int = 1,
    *,
    platform: str = "cpu",
    targets: Sequence[str] = tuple(PROJECTION_AXES),
) -> int:
    """Estimates the bytes of activations that are kept for the backward pass of `tokens` tokens in rows of `time`.

    They are those of each of `tensor` devices, which divide the heads and the MLP's features, and between products the
    time of a row.

    Args:
      config: the architecture.
      tokens: all tokens of a program.
      time: tokens of a row.
      remat: whether layers are computed again in the backward pass.
      itemsize: bytes of an activation.
      tensor: devices that divide the features.
      platform: that of the devices.
      targets: the projections with an adapter in training, whose inputs are kept.
    """
    hidden = config.hidden_size if time % tensor else config.hidden_size // tensor
    wide = (_part(config.num_heads, tensor) + 2 * _part(config.num_kv_heads, tensor)) * config.head_dim
    inner = _part(config.intermediate_size, tensor)
    scores = score_bytes(config, time) * _part(config.num_heads, tensor) // config.num_heads
    # All that one layer computes; in a recomputed one the inputs are gathered.
    layer = itemsize * (3 * wide + 4 * inner + 6 * (config.hidden_size if remat else hidden)) + scores
    if remat:
        return tokens * (layer + config.num_layers * itemsize * hidden)
    again = scores if time > LONGEST_AT_ONCE else 0  # long rows compute their scores again
    if platform == "cpu":
        return tokens * (config.num_layers * (layer - again) + again)
    # What `selfadapt.models.decoder` names, and the layer's input. XLA for GPUs computes nothing twice where layers are
    # unrolled, and keeps scores and weights of attention too, and adapters' inputs in their dtype.
    inputs = sum(
        _part(config.projections()[name][0], tensor) for name, *more in SHARED_INPUTS if {name, *more} & {*targets}
    )
    each = itemsize * (2 * hidden + wide + 2 * inner)
    each += 4 * inputs + (scores - again) * (4 + itemsize) // 8 if platform == "gpu" else itemsize * inputs
    return tokens * (config.num_layers * each + layer)


def loss_bytes(config: ModelConfig, tokens: int, platform: str, tensor: int = 1) -> int:
    """Estimates the bytes of the logits of `tokens` tokens, and of their gradient, that exist at a time."""
    chunk = min(tokens, vocabulary.chunk_bytes(config, platform) // (4 * config.vocab_size))
    return LOGITS_COPIES * 4 * chunk * _part(config.vocab_size, tensor)


def _part(size: int, tensor: int) -> int:
    """Returns the size on each of `tensor` devices of an axis that they divide if they can."""
    return size if size % tensor else size // tensor


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
      remat: the shapes of micro-batches whose activations are recomputed in the backward pass.
    """

    chunk: int
    stream: int
    shard: int
    step_tokens: tuple[int, int]
    remat: tuple[Shape, ...] = ()

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

    Memory is that of each device, for the training steps that `AdaptPlan.slots` makes of these micro-batches. A mesh's
    shards divide the adapters of a chunk (the rows, where there is only one), and its `tensor` axis the wider features.

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
      OutOfMemoryError: not even one adapter fits beside the finished others.
    """
    budget = batch_bytes(budget)
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
    found = {one.shape for own in micro_batches for one in own} or {Shape(1, 1, False, True)}
    shapes = sorted(found, key=dataclasses.astuple)
    largest = max(shape.tokens for shape in shapes)
    time = max(max(shape.time, shape.anchor_time) for shape in shapes)
    itemsize = np.dtype(params["norm"].dtype).itemsize
    platform = sharding.platform(mesh)
    least, most = STEP_TOKENS.get(platform, ACCELERATOR_STEP_TOKENS)
    tokens = max(largest, most)
    streams, (shards, row_shards) = runtime.parallel_streams(mesh), divided(len(updates), mesh)

    def plan(tokens: int, chunk: int, remat: tuple[Shape, ...] = ()) -> AdaptPlan:
        stream = -(-chunk // streams)
        shard = -(-stream // shards)
        return AdaptPlan(chunk, stream, shard, (min(least, tokens), tokens), remat)

    def needed(plan: AdaptPlan, shape: Shape) -> float:
        slots = min(streams, plan.chunk) * plan.slots(shape)
        rows, anchors = (-(-count // row_shards) for count in (shape.rows, shape.anchor_rows))
        own = slots * (rows * shape.time + anchors * shape.anchor_time)
        longest = max(shape.time, shape.anchor_time)
        passing = activation_bytes(
            config, own, longest, shape in plan.remat, itemsize, tensor, platform=platform, targets=targets
        )
        passing += loss_bytes(config, own, platform, tensor) + slots * (PASS_COPIES * each + FROZEN_COPIES * under)
        stepping = (STEP_COPIES + 2 * moments) * slots * each
        finished = -(-(len(updates) - plan.chunk) // shards) * each  # those of other chunks, when the last one trains
        return finished + -(-plan.chunk // shards) * (kept * each + under) + max(passing, stepping)

    def too_large(plan: AdaptPlan) -> tuple[Shape, ...]:
        return tuple(shape for shape in shapes if needed(plan, shape) > budget)

    chunk = len(updates)
    # Activations are recomputed only where those of the smallest training steps that suit the machine do not fit. Still
    # smaller ones are slow, since each reads all weights for few tokens: fewer adapters at once are tried before.
    remat = too_large(plan(max(largest, least), chunk))
    while tokens > max(largest, least) and too_large(plan(tokens, chunk, remat)):
        tokens = max(largest, least, tokens // 2)
    while chunk > shards and too_large(plan(tokens, chunk, remat)):
        chunk = sharding.round_up(-(-chunk // 2), shards)
    while tokens > largest and too_large(plan(tokens, chunk, remat)):
        tokens = max(largest, tokens // 2)
    if too_large(chosen := plan(tokens, chunk, remat)):
        most_needed = max(needed(chosen, shape) for shape in shapes)
        count = len(updates)
        subject = "one adapter" if count == 1 else f"each of {count} adapters, and the others beside it,"
        raise OutOfMemoryError(
            f"{subject} of rank {rank} on rows of {time} tokens needs about {most_needed / 2**20:.0f} MiB and "
            f"{budget / 2**20:.0f} MiB are free; shorten the sequences, lower the rank or the batch size"
            + (", or train fewer adapters together" if count > 1 else "")
        )
    return plan(tokens, chunk, too_large(plan(tokens, chunk)))  # of fewer adapters at once activations may fit


@dataclasses.dataclass(frozen=True)
class RowsPlan:
    """How the rows that a policy is trained on are divided.

    Attributes:
      tokens: the most tokens of a micro-batch on each shard; a single row may have more.
      remat: whether activations are recomputed in the backward pass.
    """

    tokens: int
    remat: bool


def plan_rows(config: ModelConfig, longest: int, most: int, itemsize: int, mesh: Any, budget: int) -> RowsPlan:
    """Chooses the size of micro-batches and rematerialization so that a forward and backward pass fits in memory.

    Args:
      config: the architecture.
      longest: tokens of the longest row.
      most: the most rows of an optimizer step.
      itemsize: bytes of a parameter.
      mesh: the mesh.
      budget: bytes for activations on each device.

    Raises:
      OutOfMemoryError: not even one row fits.
    """
    platform, tensor = sharding.platform(mesh), 1 if mesh is None else mesh.shape["tensor"]
    _, tokens = STEP_TOKENS.get(platform, ACCELERATOR_STEP_TOKENS)
    rows = -(-power_of_two(most) // sharding.num_shards(mesh))
    tokens = max(longest, min(tokens, rows * longest))

    def needed(tokens: int, remat: bool) -> int:
        activations = activation_bytes(config, tokens, longest, remat, itemsize, tensor, platform=platform)
        return activations + loss_bytes(config, tokens, platform, tensor)

    remat = needed(tokens, False) > budget
    while tokens > longest and needed(tokens, remat) > budget:
        tokens = max(longest, tokens // 2)
    if (least := needed(tokens, remat)) > budget:
        raise OutOfMemoryError(
            f"training on one text of {longest} tokens needs about {least / 2**20:.0f} MiB and "
            f"{budget / 2**20:.0f} MiB are free; shorten prompts or edits"
        )
    return RowsPlan(tokens, remat)
