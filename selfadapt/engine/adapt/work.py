"""What `adapt` does for some updates: chunks of adapters, their streams, and the training steps of each stream.

`adapt` runs these training steps; `selfadapt.plan` compiles their programs without running them.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import optax

from selfadapt.engine import memory
from selfadapt.engine.adapt import arrays, schedule
from selfadapt.engine.adapt.optimizers import optimizer_of
from selfadapt.errors import InvalidValueError
from selfadapt.models.config import ModelConfig
from selfadapt.models.lora import Adapters, Spec, resolve_targets
from selfadapt.parallel import sharding
from selfadapt.types import Update


@dataclasses.dataclass(frozen=True)
class TrainingStep:
    """One run of the training program of a stream.

    Attributes:
      shape: the shape of its micro-batches.
      chosen: the micro-batches, each of another adapter, as numbers in `Stream.table`.
      at: the slot of each.
      tokens: tokens that it trains on, anchors included and padding excluded.
      slots: slots of all shards; some may be empty.
      rows: rows per slot, those of the shape and a mesh's padding.
      anchor_rows: rows of anchors per slot, likewise.
    """

    shape: schedule.Shape
    chosen: np.ndarray
    at: np.ndarray
    tokens: int
    slots: int
    rows: int
    anchor_rows: int = 0

    @property
    def array_shape(self) -> tuple[int, int, int]:
        """The shape of its token arrays, `(slots, rows, time)`."""
        return self.slots, self.rows, self.shape.time

    @property
    def padded_tokens(self) -> int:
        """Tokens of its arrays, padding included."""
        return math.prod(self.array_shape) + self.slots * self.anchor_rows * self.shape.anchor_time


@dataclasses.dataclass(frozen=True)
class Stream:
    """Adapters that are trained together, by training steps that follow each other.

    Attributes:
      adapters: the indices of the adapters among all updates, in the order of the stack.
      updates: their updates.
      micro_batches: the micro-batches of each.
      optimizer: the optimizer of all of them.
      plan: how many adapters a training step has slots for, and whether it recomputes activations.
      mesh: the mesh, `None` for one device.
    """

    adapters: tuple[int, ...]
    updates: tuple[Update, ...]
    micro_batches: tuple[list[schedule.MicroBatch], ...]
    optimizer: optax.GradientTransformation
    plan: memory.AdaptPlan
    mesh: Any

    @functools.cached_property
    def table(self) -> arrays.Table:
        """The micro-batches of all adapters, by number."""
        return arrays.Table(self.micro_batches)

    @functools.cached_property
    def optimizer_steps(self) -> list[int]:
        """The number of optimizer steps of each adapter."""
        return [own[-1].step + 1 if own else 0 for own in self.micro_batches]

    @functools.cached_property
    def optimizer_step(self) -> np.ndarray:
        """The optimizer step of each micro-batch among those of all adapters, one adapter after the other."""
        return (np.cumsum(self.optimizer_steps) - self.optimizer_steps)[self.table.place] + self.table.step

    @functools.cached_property
    def _slots(self) -> dict[str, np.ndarray]:
        """What a slot has of each micro-batch: its adapter, and the hyper-parameters of its optimizer step."""
        place, updates = self.table.place, self.updates

        def of_update(values: Iterable[float]) -> np.ndarray:
            return np.asarray(list(values), np.float32)[place]

        rates = [
            schedule.learning_rate(update, step, total)
            for update, total in zip(updates, self.optimizer_steps, strict=True)
            for step in range(total)
        ]
        return {
            "adapter": (place % self.shard_size).astype(np.int32),
            "apply": self.table.last,
            "learning_rate": np.asarray(rates, np.float32)[self.optimizer_step],
            "weight_decay": of_update(update.weight_decay for update in updates),
            "max_grad_norm": of_update(
                np.inf if update.max_grad_norm is None else update.max_grad_norm for update in updates
            ),
            "orthogonality": of_update(update.orthogonality for update in updates),
        }

    @property
    def accumulates(self) -> bool:
        """Whether some optimizer step has several micro-batches."""
        return any(not each.shape.whole for own in self.micro_batches for each in own)

    @property
    def shards(self) -> int:
        """Shards that divide the adapters."""
        return memory.divided(len(self.adapters), self.mesh)[0]

    @property
    def shard_size(self) -> int:
        """Adapters per shard, padding included."""
        return -(-len(self.adapters) // self.shards)

    def training_steps(self) -> Iterator[TrainingStep]:
        """Yields the training steps in the order in which they run."""
        shards, row_multiple = memory.divided(len(self.adapters), self.mesh)
        following = self.table.first[:-1].copy()  # the next micro-batch of each adapter
        for shape, at, places in schedule.training_steps(self.micro_batches, self.plan.slots, self.shard_size):
            chosen = following[places]
            following[places] += 1
            rows, anchor_rows = (sharding.round_up(count, row_multiple) for count in (shape.rows, shape.anchor_rows))
            tokens, slots = int(self.table.tokens[chosen].sum()), self.plan.slots(shape) * shards
            yield TrainingStep(shape, chosen, np.asarray(at), tokens, slots, rows, anchor_rows)

    def batch(self, step: TrainingStep) -> dict[str, np.ndarray]:
        """Returns the arrays of a training step: its tokens, and for each slot the adapter and its hyper-parameters."""
        chosen, at = step.chosen, step.at
        # Empty slots get places past the end, each another: gathers clip them and scatters drop them.
        past = self.shard_size + np.arange(step.slots, dtype=np.int32)
        slots = {
            "adapter": past,
            "apply": np.zeros(step.slots, bool),
            "orthogonality": np.zeros(step.slots, np.float32),
        }
        for name, values in self._slots.items():
            slots.setdefault(name, np.ones(step.slots, np.float32))[at] = values[chosen]
        tokens = self.table.token_arrays(step.shape, chosen, at, step.slots, step.rows)
        if step.shape.anchor_rows:
            divergence = np.asarray([self.updates[place].divergence for place in self.table.place[chosen]], np.float32)
            tokens |= self.table.anchor_arrays(step.shape, chosen, at, step.slots, step.anchor_rows, divergence)
        return tokens | slots


@dataclasses.dataclass(frozen=True)
class Work:
    """What `adapt` does for some updates.

    Attributes:
      problems: for each update why it cannot be trained, `None` if it can.
      chunks: the streams of each chunk, which run side by side; chunks follow each other. The adapters of a chunk have
        one optimizer.
    """

    problems: tuple[str | None, ...]
    chunks: tuple[tuple[Stream, ...], ...]

    @property
    def micro_batches(self) -> int:
        """The number of micro-batches of all adapters."""
        return sum(len(own) for chunk in self.chunks for stream in chunk for own in stream.micro_batches)


def plan_work(
    model: Any,
    updates: Sequence[Update],
    init: Adapters | None = None,
    memory_bytes: int | None = None,
    on: Adapters | None = None,
) -> Work:
    """Divides updates into chunks, streams and training steps.

    Args:
      model: the base model; its parameters may be abstract.
      updates: the updates.
      init: adapters to start from, one per update; `None` for new ones.
      memory_bytes: memory for adapters and activations on each device; what is free by default.
      on: frozen adapters under those in training, one per update, if any.

    Raises:
      InvalidValueError: a target is unknown, or there is text and no tokenizer.
      OutOfMemoryError: not even one adapter fits.
    """
    config = model.config
    specs = [Spec(u.rank, u.alpha, resolve_targets(u.targets, config)) for u in updates] if init is None else init.specs
    token_ids = tokenize(model, updates)
    problems: list[str | None] = []
    micro_batches: list[list[schedule.MicroBatch]] = []
    encoded: dict[int, tuple[list[schedule.Encoded], list[schedule.Encoded]]] = {}  # updates may occur several times
    for k, update in enumerate(updates):
        if id(update) not in encoded:
            encoded[id(update)] = schedule.encode(update, token_ids), _anchors(update, token_ids)
        sequences, anchors = encoded[id(update)]
        problems.append(problem(update, sequences, config) or _anchor_problem(update, anchors, config))
        fine = problems[-1] is None
        micro_batches.append(schedule.micro_batches(k, update, sequences, config.hidden_size, anchors) if fine else [])
    chunks = []
    for indices in _groups(updates, specs):
        own = [updates[k] for k in indices]
        batches = [micro_batches[k] for k in indices]
        plan = memory.plan_adapt(config, own, init, batches, model.params, memory_bytes, model.mesh, on)
        for chunk in _parts(indices, plan.chunk):
            streams = []
            for part in _parts(chunk, plan.stream):
                parts = tuple(updates[k] for k in part), tuple(micro_batches[k] for k in part)
                streams.append(Stream(tuple(part), *parts, optimizer_of(own[0]), plan, model.mesh))
            chunks.append(tuple(streams))
    return Work(tuple(problems), tuple(chunks))


def _groups(updates: Sequence[Update], specs: Sequence[Spec]) -> list[list[int]]:
    """Returns the indices of updates that can share a stack of adapters.

    Those of one optimizer by name can: it leaves the zeros that pad ranks and targets at zero. Of another
    `optax.GradientTransformation` nothing is known, so its adapters also have equal rank and targets.
    """
    groups = collections.defaultdict(list)
    for k, (update, spec) in enumerate(zip(updates, specs, strict=True)):
        named = isinstance(update.optimizer, str)
        groups[update.optimizer if named else (update.optimizer, spec.rank, spec.targets)].append(k)
    return list(groups.values())


def _parts(whole: Sequence[int], size: int) -> list[Sequence[int]]:
    return [whole[start : start + size] for start in range(0, len(whole), size)]


def tokenize(model: Any, updates: Sequence[Update]) -> Callable[[str, bool], list[int]]:
    """Tokenizes every text of the updates at once; returns a function of (text, whether it starts a sequence)."""
    texts: dict[bool, dict[str, list[int]]] = {True: {}, False: {}}
    for update in updates:
        for sequence in (*update.sequences, *update.anchors):
            parts = (sequence,) if isinstance(sequence, str) else sequence
            if isinstance(parts, tuple | list):
                for place, part in enumerate(parts[:2]):
                    if isinstance(part, str):
                        texts[place == 0][part] = []
    for special, known in texts.items():
        if known:
            if model.tokenizer is None:
                raise InvalidValueError("the model has no tokenizer; give the sequences of an Update as token ids")
            encoded = model.tokenizer(list(known), add_special_tokens=special)["input_ids"]
            known.update(zip(known, encoded, strict=True))
    return lambda text, starts: texts[starts][text]


def training_cost(model: Any, updates: Sequence[Update]) -> dict[str, int]:
    """Returns what `adapt` spends on updates, without training them.

    Returns:
      `inner_updates`, those that can be trained; their `optimizer_steps`; and `trained_tokens`, those of anchors
      included and padding excluded.

    Raises:
      InvalidValueError: there is text and no tokenizer.

    Example:
      >>> from selfadapt import load_model
      >>> training_cost(load_model("tiny"), [Update(["The sky is green."], epochs=3), Update([])])
      {'inner_updates': 1, 'optimizer_steps': 3, 'trained_tokens': 24}
    """
    token_ids = tokenize(model, updates)
    cost = {"inner_updates": 0, "optimizer_steps": 0, "trained_tokens": 0}
    for update in updates:
        sequences = schedule.encode(update, token_ids)
        if problem(update, sequences, model.config) is None:
            cost["inner_updates"] += 1
            steps = len(schedule.optimizer_steps(update, len(sequences)))
            anchors = schedule.draw_anchors(update, _anchors(update, token_ids), steps)
            cost["optimizer_steps"] += steps
            cost["trained_tokens"] += update.epochs * sum(len(sequence.ids) for sequence in sequences)
            cost["trained_tokens"] += sum(len(anchor.ids) for anchor in anchors)
    return cost


def _anchors(update: Update, token_ids: Callable[[str, bool], list[int]]) -> list[schedule.Encoded]:
    """Returns the anchors that an update uses."""
    return schedule.encode(update, token_ids, "anchors") if update.divergence else []


def _anchor_problem(update: Update, anchors: Sequence[schedule.Encoded], config: ModelConfig) -> str | None:
    """Returns why an update's anchors cannot be used, `None` if they can."""
    if not update.divergence:
        return None
    found = problem(update, anchors, config)
    return found and f"{found} (of the anchors)"


def problem(update: Update, encoded: Sequence[schedule.Encoded], config: ModelConfig) -> str | None:
    """Returns why an update cannot be trained at all, `None` if it can."""
    if not encoded:
        return "empty: no sequence has a token to learn"
    if not math.isfinite(update.learning_rate):
        return f"invalid: the learning rate is {update.learning_rate}"
    for number, sequence in enumerate(encoded):
        if len(sequence.ids) > config.max_position_embeddings:
            return (
                f"invalid: sequence {number} has {len(sequence.ids)} tokens and the model's context "
                f"{config.max_position_embeddings}"
            )
        if (worst := int(sequence.ids.max())) >= config.vocab_size or sequence.ids.min() < 0:
            return f"invalid: sequence {number} holds token id {worst}, outside the vocabulary of {config.vocab_size}"
    return None
