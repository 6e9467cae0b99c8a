"""`adapt`: trains K adapters on K different updates at once (SEAL's inner loop, arXiv 2506.10943 section 3).

The host cuts each update into items (`schedule`) and work into what fits (`memory`); the device runs *ticks*
(`tick`), each an item of several adapters.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
import math
import threading
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from selfadapt.engine import flops, memory, runtime
from selfadapt.engine.adapt import schedule, training_step
from selfadapt.errors import InvalidValueError
from selfadapt.models.config import ModelConfig
from selfadapt.models.lora import Adapters, Lora, Spec, factor_axes, initial_factors, resolve_targets, stack_size
from selfadapt.parallel import sharding
from selfadapt.telemetry import meter
from selfadapt.types import Update

Array = jax.Array

OUTWEIGHED = 100.0  # an adapter's change of a weight, relative to the weight; useful ones stay below 10
# Ticks under way at a time. A CPU's devices share few threads: were all of them waiting, some in a collective and some
# for a place in a device's queue (of 32), what they wait for would never run.
_AHEAD = 8


def initial_adapters(config: ModelConfig, updates: Sequence[Update], where: sharding.Mesh | None = None) -> Adapters:
    """Returns the adapters that PEFT would start the updates from: a random A and a zero B, which change nothing.

    On a mesh they are padded as `Adapters.on` does, and each process draws those that its devices hold.
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

    for name in resolve_targets({name for spec in specs for name in spec.targets}, config):
        features_in, features_out = config.projections()[name]
        a_axes, b_axes = factor_axes(name)
        shape = (config.num_layers, count, features_in, rank)
        a[name] = sharding.build(where, shape, a_axes, functools.partial(drawn, name))
        b[name] = sharding.build(where, (config.num_layers, count, rank, features_out), b_axes, zeros)
    scale = np.zeros(count, np.float32)
    scale[: len(specs)] = [spec.output_scale for spec in specs]
    return Adapters(Lora(a, b, sharding.place(where, scale, ("adapters",))), tuple(specs))


def adapt(
    model: Any,
    updates: Sequence[Update],
    *,
    init: Adapters | Sequence[Adapters] | None = None,
    memory_bytes: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    snapshots: Snapshots | None = None,
) -> Adapters:
    """Trains one adapter per update, all at once.

    Each adapter comes out as it would alone, whatever its neighbours: the order of its data, its
    initial values and the shapes that it runs in depend on its own update. One that cannot be trained
    (no target tokens, a sequence longer than the model's context, a rate that is not finite or makes it
    diverge) is reported in `.status` and equals the base model.

    Args:
      model: the base model.
      updates: what each adapter learns, and how.
      init: adapters to start from, a stack or a list of K in all; they keep their own rank, alpha and
        targets. Without it each update starts as PEFT would (random A, zero B), from its own seed.
      memory_bytes: memory for adapters and activations; by default what the device has free. When K
        adapters do not fit they are trained in waves.
      progress: called with (items done, items in all) as training goes on.
      snapshots: keeps the state of training under way, so that an interrupted one can go on.

    Returns:
      K adapters, with `.losses[k]` (mean loss in nats of each optimiser step, `[steps]`), `.status[k]`,
      and `.stats`: `tokens` (trained on, padding excluded), `padded_tokens`, `padding_overhead`
      (padded / real - 1), `seconds`, `ticks`, `waves`, and `shapes` (a list of the shapes run).

    Raises:
      ValueError: there are no updates, `init` holds another number of adapters, or a target is unknown.

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
    config = model.config
    for update in updates:
        resolve_targets(update.targets, config)
    items, reasons = [], []
    token_ids = _token_ids(model, updates)
    for k, update in enumerate(updates):
        encoded = schedule.encode(update, token_ids)
        reason = _unfit(update, encoded, config)
        reasons.append(reason)
        items.append([] if reason else schedule.items(k, update, encoded, config.hidden_size))

    runtime.keep_freed_memory()
    training_step.program()  # before the streams start, so that they share one
    plan = memory.plan_adapt(config, updates, init, items, model.params, memory_bytes, model.mesh)
    tally = _Tally(sum(map(len, items)), progress, [[] for _ in updates])
    parts = []
    for wave in _slices(range(len(updates)), plan.wave):
        jobs = [
            functools.partial(
                _train,
                model,
                updates[part.start : part.stop],
                items[part.start : part.stop],
                part.start,
                None if init is None else init[part.start : part.stop],
                plan,
                tally,
                snapshots,
            )
            for part in _slices(wave, plan.stream)
        ]
        parts += _side_by_side(jobs, tally)
    adapters = parts[0] if len(parts) == 1 else Adapters.stack(parts).on(model.mesh)
    _judge(adapters, updates, reasons, model)
    runtime.return_freed_memory()
    adapters.stats = {
        "tokens": tally.tokens,
        "padded_tokens": tally.padded,
        "padding_overhead": tally.padded / max(1, tally.tokens) - 1,
        "ticks": tally.ticks,
        "waves": -(-len(updates) // plan.wave),
        "shapes": sorted(tally.shapes),
        "seconds": time.perf_counter() - started,
    }
    meter.add(
        "adapt",
        adapters=len(updates),
        tokens=sum(map(sum, tally.lengths)),
        padded_tokens=tally.padded - tally.padded_before,
        ticks=tally.ticks,
        seconds=adapters.stats["seconds"],
        flops=flops.of_adapt(config, adapters.specs, tally.lengths),
    )
    return adapters


class Snapshots(Protocol):
    """Keeps training under way: what an interrupted `adapt` goes on from when it is called again alike."""

    def restore(self, name: str, like: training_step.State) -> tuple[dict[str, Any], training_step.State] | None:
        """Returns what was last kept of a stream of adapters, with the shapes and places of `like`, if anything was."""

    def offer(self, name: str, about: Callable[[], dict[str, Any]], tree: training_step.State) -> None:
        """Is called after every tick, perhaps from several threads; may keep `about()` (JSON) and the arrays.

        The arrays are overwritten by the next tick, so they must be copied before this returns.
        """


@dataclasses.dataclass
class _Tally:
    """What has been done so far; streams on several threads add to it.

    `lengths` has for each adapter the lengths of the sequences learnt from in this call, and `padded_before`
    the tokens of ticks that an interrupted call had run.
    """

    total: int
    progress: Callable[[int, int], None] | None
    lengths: list[list[int]]
    done: int = 0
    tokens: int = 0
    padded: int = 0
    padded_before: int = 0
    ticks: int = 0
    shapes: set[tuple[int, ...]] = dataclasses.field(default_factory=set)
    stopped: bool = False
    lock: Any = dataclasses.field(default_factory=threading.Lock)

    def add(self, chosen: Collection[schedule.Item], shape: tuple[int, ...], before: bool = False) -> None:
        """Counts a tick of token arrays of `shape`; `before` if an interrupted call has run it."""
        with self.lock:
            self.done += len(chosen)
            for item in chosen:
                lengths = [len(s.ids) for row in item.rows for s in row]
                self.tokens += sum(lengths)
                if not before:
                    self.lengths[item.adapter] += lengths
            self.padded += math.prod(shape)
            self.padded_before += math.prod(shape) * before
            self.ticks += 1
            self.shapes.add(shape)
            if self.progress:
                self.progress(self.done, self.total)


def _slices(whole: range, size: int) -> list[range]:
    return [whole[start : start + size] for start in range(0, len(whole), size)]


def _side_by_side(jobs: Sequence[Callable[[], Adapters]], tally: _Tally) -> list[Adapters]:
    """Runs the streams of a wave, each on a thread of its own; an error or Ctrl-C stops them all."""
    if len(jobs) == 1:
        return [jobs[0]()]
    with concurrent.futures.ThreadPoolExecutor(len(jobs)) as pool:
        running = [pool.submit(job) for job in jobs]
        try:
            for job in concurrent.futures.as_completed(running):
                job.result()
        except BaseException:
            tally.stopped = True
            raise
    return [job.result() for job in running]


def _train(model, updates, items, first, init, plan, tally, snapshots) -> Adapters:
    """Trains one stream of adapters; `first` is the index of its first adapter among all of them."""
    config, name = model.config, f"from {first}"
    start = initial_adapters(config, updates, model.mesh) if init is None else init.on(model.mesh)
    accumulate = any(not item.shape.whole for own in items for item in own)
    with sharding.using(model.mesh):
        state = training_step.initial_state(start.lora, accumulate)
    shards, row_multiple = memory.divided(len(updates), model.mesh)
    shard_size = len(state.scale) // shards
    steps = [own[-1].step + 1 if own else 0 for own in items]
    losses = [np.zeros(n, np.float32) for n in steps]
    recorded: list[tuple[dict[int, schedule.Item], Array]] = []
    finished, order = (
        0,
        repr((plan, shards)),
    )  # which adapters a tick trains; another machine may cut the work otherwise
    if snapshots is not None and (kept := snapshots.restore(name, state)) and kept[0]["order"] == order:
        about, state = kept
        finished, losses = about["ticks"], [np.asarray(own, np.float32) for own in about["losses"]]

    def settle():
        """Adds the recorded losses to those of their steps."""
        for (chosen, _), values in zip(recorded, sharding.to_host([values for _, values in recorded]), strict=True):
            for slot, item in chosen.items():
                losses[item.adapter - first][item.step] += values[slot]
        recorded.clear()

    def about():
        settle()
        return {"order": order, "ticks": number + 1, "losses": [own.tolist() for own in losses]}

    for number, (shape, chosen) in enumerate(schedule.ticks(items, plan.slots, shard_size)):
        if tally.stopped:
            break
        slots = plan.slots(shape) * shards
        rows = sharding.round_up(shape.rows, row_multiple)
        if number < finished:  # before the interruption
            tally.add(chosen.values(), (slots, rows, shape.time), before=True)
            continue
        batch = schedule.arrays(shape, chosen, slots, rows)
        batch |= _hyperparameters(chosen, updates, steps, first, slots, shard_size)
        # Whole steps leave the accumulated gradient alone, and so need not carry it through the program.
        held = state.gradient if shape.whole else None
        with sharding.using(model.mesh):
            state, values = training_step.program()(
                model.params,
                state.replace(gradient=None) if shape.whole else state,
                batch,
                config=config,
                remat=plan.remat,
                shards=shards,
            )
        if shape.whole:
            state = state.replace(gradient=held)
        recorded.append((chosen, values))
        if len(recorded) > _AHEAD:
            jax.block_until_ready(recorded[-_AHEAD][1])
        tally.add(chosen.values(), batch["tokens"].shape)
        if snapshots is not None:
            snapshots.offer(name, about, state)
    settle()
    with sharding.using(model.mesh):
        lora = training_step.finished(state)
    adapters = Adapters(lora, start.specs, losses=losses)
    alive = sharding.to_host(state.alive)[: len(updates)]
    adapters.status = ["ok" if ok else "diverged: a loss or a gradient is not finite" for ok in alive]
    return adapters


def _hyperparameters(chosen, updates, steps, first, slots, shard_size) -> dict[str, np.ndarray]:
    """Builds the arrays `[slots]` of a tick that say whose turn it is and how each one steps."""
    # Empty slots get places past the end, each its own: gathers clip them and scatters drop them.
    values = {"adapter": shard_size + np.arange(slots, dtype=np.int32), "apply": np.zeros(slots, bool)}
    for name in ("rate", "decay", "clip", "correction1", "correction2"):
        values[name] = np.ones(slots, np.float32)
    for slot, item in chosen.items():
        k = item.adapter - first
        update = updates[k]
        values["adapter"][slot] = k % shard_size
        values["apply"][slot] = item.last
        values["rate"][slot] = schedule.learning_rate(update, item.step, steps[k])
        values["decay"][slot] = update.weight_decay
        values["clip"][slot] = np.inf if update.max_grad_norm is None else update.max_grad_norm
        values["correction1"][slot] = 1 - training_step.BETA1 ** (item.step + 1)
        values["correction2"][slot] = 1 - training_step.BETA2 ** (item.step + 1)
    return values


def _token_ids(model, updates: Sequence[Update]) -> Callable[[str, bool], list[int]]:
    """Tokenises every text of the updates at once; returns the ids of (text, whether it starts a sequence)."""
    texts: dict[bool, dict[str, list[int]]] = {True: {}, False: {}}
    for update in updates:
        for sequence in update.sequences:
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


def _unfit(update: Update, encoded: Sequence[schedule.Encoded], config: ModelConfig) -> str | None:
    """Says why an update cannot be trained at all, if so."""
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


def _judge(adapters: Adapters, updates: Sequence[Update], reasons: Sequence[str | None], model: Any) -> None:
    """Fills in each adapter's status, and turns those that failed back into the base model."""
    weights = sharding.to_host(_relative_norm(model.params["layers"], adapters.lora))
    for k, reason in enumerate(reasons):
        adapters.status[k] = reason or adapters.status[k]
        if adapters.status[k] == "ok":
            adapters.status[k] = _divergence(adapters.losses[k], weights[k], updates[k].epochs, model.config) or "ok"
    bad = np.zeros(len(adapters.lora.scale), bool)  # a mesh's padding is zero already
    bad[: len(adapters)] = [status != "ok" for status in adapters.status]
    if bad.any():
        a, b = (
            {name: jnp.where(bad[:, None, None], 0.0, leaf) for name, leaf in side.items()}
            for side in (adapters.lora.a, adapters.lora.b)
        )
        adapters.lora = adapters.lora.replace(a=a, b=b)


@jax.jit
def _relative_norm(layers: dict[str, Array], lora: Lora) -> Array:
    """Frobenius norm of each adapter's change of a weight, relative to the weight's own; the largest, `[K]`."""
    ratios = []
    for name, a in lora.a.items():
        # |A B|^2 = <A'A, B B'>, which needs rank x rank matrices only.
        a_gram = jnp.einsum("lkir,lkis->lkrs", a, a)
        b_gram = jnp.einsum("lkro,lkso->lkrs", lora.b[name], lora.b[name])
        change = jnp.sqrt((a_gram * b_gram).sum((0, 2, 3))) * lora.scale
        ratios.append(change / jnp.linalg.norm(layers[name].astype(jnp.float32).reshape(-1)))
    return jnp.stack(ratios).max(0)


def _divergence(losses: np.ndarray, weight: float, epochs: int, config: ModelConfig) -> str | None:
    """Says whether training has run away, if so: what it learnt outweighs the base or is worse than a guess."""
    if not len(losses):
        return None
    if not weight <= OUTWEIGHED:  # NaN too
        return f"diverged: the adapter outweighs the base's weights {weight:.3g} times"
    last = float(losses[-max(1, len(losses) // max(1, epochs)) :].mean())
    if last > max(float(losses[0]), math.log(config.vocab_size)) + 1.0:
        return f"diverged: the loss went from {losses[0]:.3g} to {last:.3g} nats a token"
    return None
