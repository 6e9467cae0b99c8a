"""`adapt`: trains K adapters on K different updates at once (SEAL's inner loop, arXiv 2506.10943 section 3).

The host divides updates into training steps (`work`); the device runs them (`training_step`).
"""

from __future__ import annotations

import dataclasses
import functools
import math
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from selfadapt import allocator
from selfadapt.engine import flops, runtime
from selfadapt.engine.adapt import training_step
from selfadapt.engine.adapt.work import Stream, TrainingStep, plan_work
from selfadapt.errors import InvalidValueError
from selfadapt.models.config import ModelConfig
from selfadapt.models.lora import Adapters, Lora, Spec, factor_axes, initial_factors, resolve_targets, stack_size
from selfadapt.models.model import check_base
from selfadapt.parallel import sharding
from selfadapt.telemetry import meter
from selfadapt.types import Update

Array = jax.Array

OUTWEIGHED = 100.0  # an adapter's change of a weight, relative to the weight; useful ones stay below 10
LOSS_RISE = 1.0  # nats that the last epoch's loss may be above the first step's, or a guess's if that is worse
# Training steps in flight at a time. A CPU's devices share few threads: if all of them were waiting, some in a
# collective and some for a place in a device's queue (of 32), what they wait for would never run.
_AHEAD = 8


def initial_adapters(config: ModelConfig, updates: Sequence[Update], where: sharding.Mesh | None = None) -> Adapters:
    """Returns the adapters that PEFT would start the updates from: a random A and a zero B.

    On a mesh they are padded as by `Adapters.on`, and each process draws those that its devices hold.
    """
    specs = [Spec(u.rank, u.alpha, resolve_targets(u.targets, config)) for u in updates]
    rank = max(spec.rank for spec in specs)
    a, b = {}, {}
    draw = functools.lru_cache(maxsize=None)(functools.partial(initial_factors, config))
    count = stack_size(len(specs), where)

    def drawn(name, index):
        layers, adapters, features, _ = index
        factors = np.zeros([part.stop - part.start for part in index], np.float32)
        for k in range(adapters.start, min(adapters.stop, len(specs))):
            if name in specs[k].targets:
                values = draw(specs[k].rank, name, updates[k].seed)
                factors[:, k - adapters.start, :, : specs[k].rank] = values[layers, features]
        return factors

    def zeros(index):
        return np.zeros([part.stop - part.start for part in index], np.float32)

    for name in resolve_targets([name for spec in specs for name in spec.targets], config):
        features_in, features_out = config.projections()[name]
        a_axes, b_axes = factor_axes(name)
        shape = (config.num_layers, count, features_in, rank)
        a[name] = sharding.make_array(where, shape, a_axes, functools.partial(drawn, name))
        b[name] = sharding.make_array(where, (config.num_layers, count, rank, features_out), b_axes, zeros)
    scale = np.zeros(count, np.float32)
    scale[: len(specs)] = [spec.output_scale for spec in specs]
    return Adapters(Lora(a, b, sharding.put(where, scale, ("adapters",))), tuple(specs))


def adapt(
    model: Any,
    updates: Sequence[Update],
    *,
    init: Adapters | Sequence[Adapters] | None = None,
    on: Adapters | None = None,
    memory_bytes: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    snapshots: Snapshots | None = None,
) -> Adapters:
    """Trains one adapter per update, all at once.

    Each adapter gets the result that it would get alone: the order of its data, its initial values and the shapes of
    its micro-batches depend on its own update. An adapter that cannot be trained (no target tokens, a sequence longer
    than the model's context, a learning rate that is not finite or makes it diverge) is reported in `.status` and
    equals the base model. Adapters of different optimizers are trained one optimizer after the other.

    Args:
      model: the base model.
      updates: what each adapter learns, and how.
      init: adapters to start from, a stack or a list of K in all; they keep their own rank, alpha and
        targets. Without it each update starts as in PEFT (random A, zero B), from its own seed.
      on: K frozen adapters, one under each that is trained: update k trains as if adapter k had been merged into the
        base, and does not change it. They are not part of the result; `on.join(result)` has the effect of both.
      memory_bytes: memory for adapters and activations; by default what the device has free. When K
        adapters do not fit they are trained in chunks.
      progress: called with (micro-batches done, micro-batches in all) after each training step.
      snapshots: saves and restores the state of training in flight.

    Returns:
      K adapters, with `.losses[k]` (mean loss in nats of each optimizer step, `[steps]`), `.status[k]`,
      and `.stats`: `tokens` (trained on, anchors included, padding excluded), `padded_tokens`, `padding_overhead`
      (padded / real - 1), `seconds`, `training_steps`, `chunks`, and `shapes` (those of the training steps, a list of
      (slots, rows, time)).

    Raises:
      InvalidValueError: there are no updates, `init` or `on` holds another number of adapters, `on` was made for
        another base, or a target is unknown.
      OutOfMemoryError: not even one adapter fits.

    Example:
      >>> from selfadapt import Update, adapt, load_model
      >>> model = load_model("tiny")
      >>> adapters = adapt(model, [Update(["The sky is green."]), Update(["The sea is red."])])
      >>> len(adapters), adapters.status
      (2, ['ok', 'ok'])
    """
    started = time.perf_counter()
    updates = [updates] if isinstance(updates, Update) else list(updates)
    if not updates:
        raise InvalidValueError("there are no updates to adapt to")
    if init is not None and not isinstance(init, Adapters):
        init = Adapters.stack(list(init))
    if init is not None and len(init) != len(updates):
        raise InvalidValueError(f"init holds {len(init)} adapters for {len(updates)} updates; give one for each")
    if on is not None:
        if len(on) != len(updates):
            raise InvalidValueError(f"on holds {len(on)} adapters for {len(updates)} updates; give one for each")
        check_base(model.config, on)
    work = plan_work(model, updates, init, memory_bytes, on)

    allocator.keep()
    tally = _Tally(work.micro_batches, progress, [[] for _ in updates], [[] for _ in updates])
    parts = []
    for chunk in work.chunks:
        jobs = [functools.partial(_train, model, stream, init, on, tally, snapshots) for stream in chunk]
        parts += runtime.side_by_side(jobs, len(jobs), tally.stop)
    adapters = parts[0] if len(parts) == 1 else Adapters.stack(parts).on(model.mesh)
    trained = [k for chunk in work.chunks for stream in chunk for k in stream.adapters]
    if trained != sorted(trained):  # one optimizer after the other
        adapters = _chosen(adapters, np.argsort(trained).tolist()).on(model.mesh)
    _judge(adapters, updates, work.problems, model)
    allocator.return_kept()
    adapters.stats = {
        "tokens": tally.tokens,
        "padded_tokens": tally.padded,
        "padding_overhead": tally.padded / max(1, tally.tokens) - 1,
        "training_steps": tally.training_steps,
        "chunks": len(work.chunks),
        "shapes": sorted(tally.shapes),
        "seconds": time.perf_counter() - started,
    }
    meter.add(
        "adapt",
        adapters=len(updates),
        tokens=sum(map(sum, [*tally.lengths, *tally.anchors])),
        padded_tokens=tally.padded - tally.padded_before,
        training_steps=tally.training_steps,
        seconds=adapters.stats["seconds"],
        flops=flops.of_adapt(
            model.config, adapters.specs, tally.lengths, () if on is None else on.specs, tally.anchors
        ),
    )
    return adapters


class Snapshots(Protocol):
    """Saves the state of training in flight, from which an interrupted call resumes when it is repeated."""

    def restore(self, name: str, like: Any) -> tuple[dict[str, Any], Any] | None:
        """Returns what was last saved of a stream, with the shapes and shardings of `like`; `None` if nothing was."""

    def offer(self, name: str, about: Callable[[], dict[str, Any]], tree: Any) -> None:
        """Is called after every training step, perhaps from several threads; may save `about()` (JSON) and the arrays.

        The next training step overwrites the arrays, so they must be copied before this returns.
        """


@dataclasses.dataclass
class _Tally:
    """What has been done so far; streams on several threads add to it.

    `lengths` has for each adapter the lengths of the sequences learned from in this call, `anchors` those of its
    anchors, and `padded_before` the tokens of training steps that an interrupted call had run.
    """

    total: int
    progress: Callable[[int, int], None] | None
    lengths: list[list[int]]
    anchors: list[list[int]]
    done: int = 0
    tokens: int = 0
    padded: int = 0
    padded_before: int = 0
    training_steps: int = 0
    shapes: set[tuple[int, ...]] = dataclasses.field(default_factory=set)
    stopped: bool = False
    lock: Any = dataclasses.field(default_factory=threading.Lock)

    def stop(self) -> None:
        """Ends all streams after their present training step."""
        self.stopped = True

    def add(self, step: TrainingStep, before: bool = False) -> None:
        """Counts a training step; `before` if an interrupted call has run it."""
        with self.lock:
            self.done += len(step.chosen)
            self.tokens += step.tokens
            padded = step.padded_tokens
            self.padded += padded
            self.padded_before += padded * before
            self.training_steps += 1
            self.shapes.add(step.array_shape)
            if self.progress:
                self.progress(self.done, self.total)

    def add_lengths(self, stream: Stream, learned: np.ndarray) -> None:
        """Adds the lengths of the sequences and anchors of micro-batches that were learned from in this call."""
        for found, lengths in zip((self.lengths, self.anchors), stream.table.lengths(learned), strict=True):
            for adapter, own in zip(stream.adapters, lengths, strict=True):
                found[adapter] += own


def _train(
    model: Any,
    stream: Stream,
    init: Adapters | None,
    on: Adapters | None,
    tally: _Tally,
    snapshots: Snapshots | None,
) -> Adapters:
    """Trains one stream of adapters; `init` holds all adapters to start from, `on` all frozen ones."""
    name = f"from {stream.adapters[0]}"
    start = _start(model, stream, init)
    with sharding.using(model.mesh):
        state = training_step.initial_state(start.lora, optimizer=stream.optimizer, accumulate=stream.accumulates)
        frozen = None
        if on is not None:
            frozen = training_step.adapters_first(_chosen(on, stream.adapters).on(model.mesh).lora)
    losses = np.zeros(sum(stream.optimizer_steps), np.float32)  # of all adapters, one after the other
    recorded: list[tuple[TrainingStep, Array]] = []
    # A snapshot is of no use where the work is divided otherwise, as with another amount of memory.
    finished, order = 0, repr((stream.plan, stream.shards))
    if snapshots is not None and (kept := snapshots.restore(name, state)) and kept[0]["order"] == order:
        progress, state = kept
        finished, losses = progress["training_steps"], np.concatenate(progress["losses"], dtype=np.float32)

    def settle():
        """Adds the recorded losses to those of their optimizer steps."""
        for (step, _), values in zip(recorded, sharding.to_host([values for _, values in recorded]), strict=True):
            losses[stream.optimizer_step[step.chosen]] += values[step.at]
        recorded.clear()

    def by_adapter():
        return np.split(losses, np.cumsum(stream.optimizer_steps)[:-1])

    def about():
        settle()
        return {"order": order, "training_steps": number + 1, "losses": [own.tolist() for own in by_adapter()]}

    learned = [np.zeros(0, int)]
    for number, step in enumerate(stream.training_steps()):
        if tally.stopped:
            break
        if number < finished:  # before the interruption
            tally.add(step, before=True)
            continue
        # Whole steps leave the accumulated gradient alone, and so need not carry it through the program.
        held = state.gradient if step.shape.whole else None
        with sharding.using(model.mesh):
            state, values = training_step.program(
                model.params,
                state.replace(gradient=None) if step.shape.whole else state,
                stream.batch(step),
                frozen,
                config=model.config,
                optimizer=stream.optimizer,
                remat=step.shape in stream.plan.remat,
                shards=stream.shards,
            )
        if step.shape.whole:
            state = state.replace(gradient=held)
        recorded.append((step, values))
        if len(recorded) > _AHEAD:
            jax.block_until_ready(recorded[-_AHEAD][1])
        tally.add(step)
        learned.append(step.chosen)
        if snapshots is not None:
            snapshots.offer(name, about, state)
    settle()
    tally.add_lengths(stream, np.concatenate(learned))
    with sharding.using(model.mesh):
        lora = training_step.finished(state)
    adapters = Adapters(lora, start.specs, losses=by_adapter())
    alive = sharding.to_host(state.alive)[: len(stream.adapters)]
    adapters.status = ["ok" if ok else "diverged: a loss or a gradient is not finite" for ok in alive]
    return adapters


def _start(model: Any, stream: Stream, init: Adapters | None) -> Adapters:
    """Returns the adapters that a stream starts from."""
    if init is None:
        return initial_adapters(model.config, stream.updates, model.mesh)
    start = _chosen(init, stream.adapters)
    if not isinstance(stream.updates[0].optimizer, str):
        # All have one rank and the same targets; what pads them in `init` must not be trained.
        rank, targets = start.specs[0].rank, start.specs[0].targets
        a = {name: start.lora.a[name][..., :rank] for name in targets}
        b = {name: start.lora.b[name][:, :, :rank] for name in targets}
        start = dataclasses.replace(start, lora=dataclasses.replace(start.lora, a=a, b=b))
    return start.on(model.mesh)


def _chosen(adapters: Adapters, indices: Sequence[int]) -> Adapters:
    """Returns the adapters at some indices, as a stack."""
    if list(indices) == list(range(indices[0], indices[-1] + 1)):
        return adapters[indices[0] : indices[-1] + 1]
    return Adapters(
        adapters.lora.take(np.asarray(indices)),
        tuple(adapters.specs[k] for k in indices),
        [adapters.status[k] for k in indices],
        [adapters.losses[k] for k in indices],
        adapters.stats,
    )


def _judge(adapters: Adapters, updates: Sequence[Update], problems: Sequence[str | None], model: Any) -> None:
    """Sets the status of each adapter, and turns those that failed into the base model."""
    weights = sharding.to_host(relative_norm(model.params["layers"], adapters.lora))
    for k, problem in enumerate(problems):
        adapters.status[k] = problem or adapters.status[k]
        if adapters.status[k] == "ok":
            adapters.status[k] = _divergence(adapters.losses[k], weights[k], updates[k].epochs, model.config) or "ok"
    bad = np.zeros(len(adapters.lora.scale), bool)  # a mesh's padding is zero already
    bad[: len(adapters)] = [status != "ok" for status in adapters.status]
    if bad.any():
        adapters.lora = adapters.lora.without(bad)


@jax.jit
def relative_norm(layers: dict[str, Array], lora: Lora) -> Array:
    """Returns the Frobenius norm of each adapter's change of a weight relative to the weight's; the largest, `[K]`."""
    ratios = []
    for name, a in lora.a.items():
        # |A B|^2 = <A'A, B B'>, which needs rank x rank matrices only.
        a_gram = jnp.einsum("lkir,lkis->lkrs", a, a, precision="highest")
        b_gram = jnp.einsum("lkro,lkso->lkrs", lora.b[name], lora.b[name], precision="highest")
        change = jnp.sqrt((a_gram * b_gram).sum((0, 2, 3))) * lora.scale
        ratios.append(change / jnp.linalg.norm(layers[name].astype(jnp.float32).reshape(-1)))
    return jnp.stack(ratios).max(0)


def _divergence(losses: np.ndarray, weight: float, epochs: int, config: ModelConfig) -> str | None:
    """Returns why training has diverged (the adapter outweighs the base, or is worse than a guess), or `None`."""
    if not len(losses):
        return None
    if not weight <= OUTWEIGHED:  # NaN too
        return f"diverged: the adapter outweighs the base's weights {weight:.3g} times"
    return rising_loss(losses, epochs, config)


def rising_loss(losses: np.ndarray, epochs: int, config: ModelConfig) -> str | None:
    """Returns why losses show that training has diverged (the last epoch's are worse than a guess), or `None`.

    Args:
      losses: the mean loss of each optimizer step in nats, `[steps]`, at least one.
      epochs: passes over the sequences.
      config: the model's architecture.
    """
    last = float(losses[-epoch_steps(len(losses), epochs) :].mean())
    if last > max(float(losses[0]), math.log(config.vocab_size)) + LOSS_RISE:
        return f"diverged: the loss went from {losses[0]:.3g} to {last:.3g} nats a token"
    return None


def epoch_steps(steps: int, epochs: int) -> int:
    """Returns the number of optimizer steps in the last epoch, whose losses `rising_loss` judges."""
    return max(1, steps // max(1, epochs))
