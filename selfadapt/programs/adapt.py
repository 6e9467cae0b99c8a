"""`adapt`: trains K adapters on K different updates at once (SEAL's inner loop, arXiv 2506.10943 section 3).

One jitted, pure program per shape runs a *tick*: gather the adapters whose turn it is, one forward and
backward pass of the frozen base over all their rows, clipping and AdamW per adapter, write back. What
differs between adapters (rate, schedule, steps, rank, alpha, targets, masks) is data.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
import math
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np

from selfadapt.models import decoder
from selfadapt.models.config import ModelConfig
from selfadapt.models.lora import Adapters, Lora, Spec, initial_factors, resolve_targets
from selfadapt.programs import host, memory, schedule
from selfadapt.types import Update

Array = jax.Array

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8  # AdamW's, as in torch and in Hugging Face's Trainer
CLIP_EPSILON = 1e-6  # torch.nn.utils.clip_grad_norm_
OUTWEIGHED = 100.0  # an adapter's change of a weight, relative to the weight; useful ones stay below 10
LOGITS_BYTES = 64 * 2**20  # a chunk of logits; above it the projection is recomputed in the backward pass


@flax.struct.dataclass
class State:
    """K adapters in training; every leaf has the adapters first, so that each one lies together in memory.

    Attributes:
      factors: the adapters' two factors, `[K, layers, in, rank]` and `[K, layers, rank, out]` for each target.
      scale: alpha / rank, `[K]`.
      mu: Adam's first moments, shaped like the factors.
      nu: its second moments.
      gradient: the accumulated gradient of unfinished steps; `None` when every item is a whole step.
      alive: false from the first non-finite loss or gradient on, `[K]`.
    """

    factors: tuple[dict[str, Array], dict[str, Array]]
    scale: Array
    mu: Any
    nu: Any
    gradient: Any
    alive: Array


def token_losses(params: decoder.Params, config: ModelConfig, hidden: Array, targets: Array) -> Array:
    """Cross-entropy in nats of `targets` `[..., T]` under hidden states `[..., T, D]`, in float32.

    The projection to the vocabulary is done in chunks, so that logits never take more than about
    `LOGITS_BYTES`.
    """

    def losses(hidden, targets):
        scores = decoder.logits(params, config, hidden)
        # A comparison instead of a gather: its gradient is elementwise and not a scatter.
        gold = jnp.where(jnp.arange(config.vocab_size) == targets[..., None], scores, 0.0).sum(-1)
        return jax.nn.logsumexp(scores, axis=-1) - gold

    count = math.prod(targets.shape)
    chunks = math.ceil(count * config.vocab_size * 4 / LOGITS_BYTES)
    if chunks <= 1:
        return losses(hidden, targets)
    size = math.ceil(count / chunks)
    flat = jnp.pad(hidden.reshape(count, -1), ((0, size * chunks - count), (0, 0)))
    gold = jnp.pad(targets.reshape(count), (0, size * chunks - count))
    result = jax.lax.map(
        jax.checkpoint(lambda chunk: losses(*chunk)), (flat.reshape(chunks, size, -1), gold.reshape(chunks, size))
    )
    return result.reshape(-1)[:count].reshape(targets.shape)


def adapter_losses(lora: Lora, params: decoder.Params, config: ModelConfig, batch: dict, remat: bool) -> Array:
    """Weighted loss of each adapter's rows, `[K]`; `batch` is what `schedule.arrays` builds."""
    hidden = decoder.forward(
        params,
        config,
        batch["tokens"],
        lora=lora,
        positions=batch.get("positions"),
        segments=batch.get("segments"),
        key_segments=batch.get("key_segments"),
        remat=remat,
    )
    losses = token_losses(params, config, hidden[:, :, :-1], batch["tokens"][:, :, 1:])
    return (losses * batch["weights"][:, :, 1:]).sum((1, 2))


def tick(params: decoder.Params, state: State, batch: dict, *, config: ModelConfig, remat: bool) -> tuple[State, Array]:
    """Runs one item of each adapter named in `batch["adapter"]`.

    Args:
      params: the frozen base.
      state: all K adapters.
      batch: token arrays `[slots, rows, time]` and, for each slot, `adapter` (K or more: an empty
        slot), `apply` (whether the step ends here), `rate`, `decay`, `clip`, and Adam's bias
        corrections `correction1`, `correction2`.
      config: the architecture.
      remat: whether to recompute activations in the backward pass.

    Returns:
      The new state, and each slot's share of its step's loss, `[slots]`.
    """
    index = batch["adapter"]

    def gather(tree):
        return jax.tree.map(lambda leaf: jnp.take(leaf, index, axis=0, mode="clip"), tree)

    def scatter(tree, index, new):
        return jax.tree.map(
            lambda leaf, value: leaf.at[index].set(value, mode="drop", unique_indices=True), tree, new
        )

    def slotwise(values, leaf):  # [slots] against [slots, layers, ., .]
        return values.reshape(-1, *[1] * (leaf.ndim - 1))

    factors, scale, alive = gather((state.factors, state.scale, state.alive))

    def total(factors):
        losses = adapter_losses(_stacked(factors, scale), params, config, batch, remat)
        return losses.sum(), losses

    gradient, losses = jax.grad(total, has_aux=True)(factors)
    if state.gradient is not None:
        gradient = jax.tree.map(jnp.add, gather(state.gradient), gradient)
    norm = jnp.sqrt(sum(jnp.sum(g * g, axis=(1, 2, 3)) for g in jax.tree.leaves(gradient)))
    alive = alive & jnp.isfinite(losses) & jnp.isfinite(norm)
    step = alive & batch["apply"]
    shrink = jnp.minimum(1.0, batch["clip"] / (norm + CLIP_EPSILON))

    mu, nu = gather(state.mu), gather(state.nu)
    clipped = jax.tree.map(lambda g: g * slotwise(shrink, g), gradient)
    new_mu = jax.tree.map(lambda m, g: BETA1 * m + (1 - BETA1) * g, mu, clipped)
    new_nu = jax.tree.map(lambda v, g: BETA2 * v + (1 - BETA2) * g * g, nu, clipped)

    def adamw(p, m, v):
        denominator = jnp.sqrt(v) / jnp.sqrt(slotwise(batch["correction2"], v)) + EPSILON
        rate = slotwise(batch["rate"], p)
        return p * (1 - rate * slotwise(batch["decay"], p)) - rate / slotwise(batch["correction1"], m) * m / denominator

    new_factors = jax.tree.map(adamw, factors, new_mu, new_nu)
    # A slot that takes no step writes past the end, where writes are dropped: cheaper than selecting the old values.
    stepping = jnp.where(step, index, len(state.scale) + jnp.arange(len(index)))
    accumulated = state.gradient
    if accumulated is not None:
        unfinished = jax.tree.map(lambda g: jnp.where(slotwise(batch["apply"], g), 0.0, g), gradient)
        accumulated = scatter(accumulated, index, unfinished)
    state = State(
        factors=scatter(state.factors, stepping, new_factors),
        scale=state.scale,
        mu=scatter(state.mu, stepping, new_mu),
        nu=scatter(state.nu, stepping, new_nu),
        gradient=accumulated,
        alive=scatter(state.alive, index, alive),
    )
    return state, losses


@functools.cache
def program() -> Any:
    """Returns `tick` jitted for the backend at hand; it updates its state in place."""
    return jax.jit(
        tick,
        static_argnames=("config", "remat"),
        donate_argnames=("state",),
        compiler_options=host.compiler_options(),
    )


def initial_state(start: Adapters, accumulate: bool) -> State:
    """Returns the state of training from these adapters; `accumulate` if a step may have several parts."""
    lora = start.lora
    # A copy: the program updates its state in place.
    factors = jax.tree.map(lambda leaf: jnp.array(jnp.moveaxis(leaf, 1, 0)), (lora.a, lora.b))

    def zeros():
        return jax.tree.map(jnp.zeros_like, factors)

    return State(
        factors=factors,
        scale=jnp.array(lora.scale),
        mu=zeros(),
        nu=zeros(),
        gradient=zeros() if accumulate else None,
        alive=jnp.ones(len(start), bool),
    )


def _stacked(factors: tuple[dict, dict], scale: Array) -> Lora:
    """Returns the adapters as the decoder takes them, layers first."""
    return Lora(*jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, 1), factors), scale)


def initial_adapters(config: ModelConfig, updates: Sequence[Update]) -> Adapters:
    """Returns the adapters that PEFT would start the updates from: a random A and a zero B, which change nothing."""
    specs = [Spec(u.rank, u.alpha, resolve_targets(u.targets, config)) for u in updates]
    rank = max(spec.rank for spec in specs)
    a, b = {}, {}
    draw = functools.lru_cache(maxsize=None)(functools.partial(initial_factors, config))
    for name in resolve_targets({name for spec in specs for name in spec.targets}, config):
        features_in, features_out = config.projections()[name]
        factors = np.zeros((config.num_layers, len(specs), features_in, rank), np.float32)
        for k, (spec, update) in enumerate(zip(specs, updates, strict=True)):
            if name in spec.targets:
                factors[:, k, :, : spec.rank] = draw(spec.rank, name, update.seed)
        a[name] = jnp.asarray(factors)
        b[name] = jnp.zeros((config.num_layers, len(specs), rank, features_out), jnp.float32)
    return Adapters(Lora(a, b, jnp.asarray([spec.output_scale for spec in specs], jnp.float32)), tuple(specs))


def adapt(
    model: Any,
    updates: Sequence[Update],
    *,
    init: Adapters | Sequence[Adapters] | None = None,
    memory_bytes: int | None = None,
    progress: Callable[[int, int], None] | None = None,
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
        raise ValueError("there are no updates to adapt to")
    if init is not None and not isinstance(init, Adapters):
        init = Adapters.stack(list(init))
    if init is not None and len(init) != len(updates):
        raise ValueError(f"init holds {len(init)} adapters for {len(updates)} updates; give one for each")
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

    host.keep_freed_memory()
    program()  # before the streams start, so that they share one
    plan = memory.plan_adapt(config, updates, init, items, model.params, memory_bytes)
    tally = _Tally(sum(map(len, items)), progress)
    parts = []
    for wave in _slices(range(len(updates)), plan.wave):
        jobs = [
            functools.partial(
                _train, model, updates[part.start : part.stop], items[part.start : part.stop], part.start,
                None if init is None else init[part.start : part.stop], plan, tally,
            )
            for part in _slices(wave, plan.stream)
        ]
        parts += _side_by_side(jobs, tally)
    adapters = parts[0] if len(parts) == 1 else Adapters.stack(parts)
    _judge(adapters, updates, reasons, model)
    host.return_freed_memory()
    adapters.stats = {
        "tokens": tally.tokens,
        "padded_tokens": tally.padded,
        "padding_overhead": tally.padded / max(1, tally.tokens) - 1,
        "ticks": tally.ticks,
        "waves": -(-len(updates) // plan.wave),
        "shapes": sorted(tally.shapes),
        "seconds": time.perf_counter() - started,
    }
    return adapters


@dataclasses.dataclass
class _Tally:
    """What has been done so far; streams on several threads add to it."""

    total: int
    progress: Callable[[int, int], None] | None
    done: int = 0
    tokens: int = 0
    padded: int = 0
    ticks: int = 0
    shapes: set[tuple[int, ...]] = dataclasses.field(default_factory=set)
    stopped: bool = False
    lock: Any = dataclasses.field(default_factory=threading.Lock)

    def add(self, chosen: Sequence[schedule.Item], shape: tuple[int, ...]) -> None:
        """Counts a tick of token arrays of `shape`."""
        with self.lock:
            self.done += len(chosen)
            self.tokens += sum(len(s.ids) for item in chosen for row in item.rows for s in row)
            self.padded += math.prod(shape)
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


def _train(model, updates, items, first, init, plan, tally) -> Adapters:
    """Trains one stream of adapters; `first` is the index of its first adapter among all of them."""
    config = model.config
    start = initial_adapters(config, updates) if init is None else init
    accumulate = any(not item.shape.whole for own in items for item in own)
    state = initial_state(start, accumulate)
    steps = [own[-1].step + 1 if own else 0 for own in items]
    recorded: list[tuple[list[schedule.Item], Array]] = []
    for shape, chosen in schedule.ticks(items, plan.slots):
        if tally.stopped:
            break
        slots = plan.slots(shape)
        batch = schedule.arrays(shape, chosen, slots) | _hyperparameters(chosen, updates, steps, first, slots)
        # Whole steps leave the accumulated gradient alone, and so need not carry it through the program.
        held = state.gradient if shape.whole else None
        state, losses = program()(
            model.params, state.replace(gradient=None) if shape.whole else state, batch, config=config, remat=plan.remat
        )
        if shape.whole:
            state = state.replace(gradient=held)
        recorded.append((chosen, losses))
        tally.add(chosen, batch["tokens"].shape)
    losses = [np.zeros(n, np.float32) for n in steps]
    for (chosen, _), values in zip(recorded, jax.device_get([values for _, values in recorded]), strict=True):
        for item, value in zip(chosen, values[: len(chosen)], strict=True):
            losses[item.adapter - first][item.step] += value
    alive = np.asarray(state.alive)
    adapters = Adapters(_stacked(state.factors, state.scale), start.specs, losses=losses)
    adapters.status = ["ok" if ok else "diverged: a loss or a gradient is not finite" for ok in alive]
    return adapters


def _hyperparameters(chosen, updates, steps, first, slots) -> dict[str, np.ndarray]:
    """Builds the arrays `[slots]` of a tick that say whose turn it is and how each one steps."""
    # Empty slots get indices past the end, each its own: gathers clip them and scatters drop them.
    values = {"adapter": len(updates) + np.arange(slots, dtype=np.int32), "apply": np.zeros(slots, bool)}
    for name in ("rate", "decay", "clip", "correction1", "correction2"):
        values[name] = np.ones(slots, np.float32)
    for slot, item in enumerate(chosen):
        k = item.adapter - first
        update = updates[k]
        values["adapter"][slot] = k
        values["apply"][slot] = item.last
        values["rate"][slot] = schedule.learning_rate(update, item.step, steps[k])
        values["decay"][slot] = update.weight_decay
        values["clip"][slot] = np.inf if update.max_grad_norm is None else update.max_grad_norm
        values["correction1"][slot] = 1 - BETA1 ** (item.step + 1)
        values["correction2"][slot] = 1 - BETA2 ** (item.step + 1)
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
                raise ValueError("the model has no tokenizer; give the sequences of an Update as token ids")
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
    weights = np.asarray(_relative_norm(model.params["layers"], adapters.lora))
    for k, reason in enumerate(reasons):
        adapters.status[k] = reason or adapters.status[k]
        if adapters.status[k] == "ok":
            adapters.status[k] = _divergence(adapters.losses[k], weights[k], updates[k].epochs, model.config) or "ok"
    bad = jnp.asarray([status != "ok" for status in adapters.status])
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
