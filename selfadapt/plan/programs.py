"""The programs that a round runs, with abstract arguments: what to compile, and how often each one runs.

Shapes come from the same host code that a run uses (waves, ticks, packing), fed with the workload's lengths.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from selfadapt.engine import memory, runtime, score
from selfadapt.engine.adapt import schedule, train, training_step
from selfadapt.engine.generate import batching, sampling
from selfadapt.engine.generate.choose import Choice
from selfadapt.models import hf
from selfadapt.models.lora import Lora, abstract_lora, resolve_targets, stack_size
from selfadapt.models.model import Model
from selfadapt.outer import make_outer
from selfadapt.parallel import sharding
from selfadapt.plan.workload import Workload, finetuning
from selfadapt.types import Update


@dataclasses.dataclass(frozen=True)
class Step:
    """One program.

    Attributes:
      name: what it does and its shape.
      verb: the part of a round that it belongs to.
      runs: how often a round runs it.
      tokens: tokens that one run works on, without padding.
      padded: with padding.
      inputs: its large arguments by kind, as abstract arrays.
      held: bytes on each device, by kind, of what is kept there beside its arguments.
      lower: traces it; `None` where nothing is compiled and only the memory counts.
      trips: how often its loop runs where the program leaves that open.
    """

    name: str
    verb: str
    runs: float
    tokens: float
    padded: float
    inputs: dict[str, Any]
    held: dict[str, int]
    lower: Callable[[], Any] | None
    trips: int = 1


@dataclasses.dataclass(frozen=True)
class Machine:
    """What programs are made for.

    Attributes:
      mesh: the mesh; `None` for one device of this process.
      memory: bytes of each device.
    """

    mesh: Any
    memory: float

    @property
    def shards(self) -> int:
        """Places on the mesh that hold adapters or rows of their own."""
        return sharding.shards(self.mesh)

    @property
    def platform(self) -> str:
        """The devices' platform."""
        return runtime.platform(self.mesh)

    def array(self, shape: Sequence[int], dtype: Any, axes: Sequence[str | None]) -> jax.ShapeDtypeStruct:
        """Returns an abstract array that lies where a real one would."""
        return sharding.abstract(self.mesh, shape, dtype, axes)


def device_bytes(tree: Any) -> int:
    """Returns how many bytes of a tree of (abstract) arrays each device holds."""
    total = 0
    for leaf in jax.tree.leaves(tree):
        shape = leaf.shape if leaf.sharding is None else leaf.sharding.shard_shape(leaf.shape)
        total += math.prod(shape) * np.dtype(leaf.dtype).itemsize
    return total


def abstract_model(model: Model, machine: Machine, dtype: str) -> Model:
    """Returns a model whose parameters are abstract arrays on a machine."""
    params: dict[str, Any] = {"layers": {}}
    for weight in hf.weights(model.config):
        leaf = machine.array(weight.array_shape(model.config.num_layers), jnp.dtype(dtype), weight.axes)
        (params["layers"] if weight.stacked else params)[weight.path[-1]] = leaf
    other = model.with_params(params)
    other.mesh = machine.mesh
    return other


class Planner:
    """Makes the steps of a round of one experiment on one machine.

    Args:
      config: the experiment.
      model: an abstract model (`abstract_model`).
      machine: the machine.
      work: the round's work.
    """

    def __init__(self, config: Any, model: Model, machine: Machine, work: Workload):
        self.config, self.model, self.machine, self.work = config, model, machine, work
        self.edits = config.contexts * config.edits
        self.at_once = min(config.at_once, self.edits)
        self.weights = device_bytes(model.params)
        # The untrained weights stay for the controls, beside those of the policy once it has been trained.
        self.outer = make_outer(config)
        self.merges = getattr(self.outer, "merge", True)
        self.first_weights = self.weights if self.merges else 0
        self.budget = max(0, int(memory.SHARE * (machine.memory - self.weights - self.first_weights)))

    def sampling(self) -> Iterator[Step]:
        """Yields the programs that write edits."""
        config, work = self.config, self.work
        at_once = min(config.at_once, config.contexts)
        lengths = [(0, work.prompts[index % len(work.prompts)]) for index in range(at_once)]
        mode = "greedy" if not config.sampling.temperature else "plain" if config.sampling.top_p == 1 else "filtered"
        texts = _Texts(config.edits, work.edit, work.longest, config.sampling.max_new_tokens, mode)
        adapter = None if self.merges else finetuning(config, self.outer, work)
        yield from self._generating("sample", lengths, texts, adapter, 1, config.contexts / at_once)

    def training(self) -> Iterator[Step]:
        """Yields the ticks that train the adapters of edits."""
        updates = [self._update(index) for index in range(self.at_once) for _ in range(self.config.inner_runs)]
        yield from self._ticks("adapt", updates, self.edits / self.at_once)

    def answering(self) -> Iterator[Step]:
        """Yields the programs that answer questions, each adapter its own."""
        most = self.config.answer.max_new_tokens
        texts = _Texts(1, most, most, most, "greedy")
        yield from self._generating(
            "answer", self._questions(), texts, self.work.updates[0], self._adapters(), self.edits / self.at_once
        )

    def improving(self) -> Iterator[Step]:
        """Yields the ticks that train the policy on the chosen edits."""
        yield from self._ticks("improve", [finetuning(self.config, self.outer, self.work)], 1.0)

    def scoring(self) -> Iterator[Step]:
        """Yields the program of `log_likelihood` on every question, which a round itself does not use."""
        targets = batching.bucket(min(16, self.config.answer.max_new_tokens), granule=4)
        lengths = [(owner, length + targets) for owner, length in self._questions()]
        config, stack = self.model.config, self._stack(self._adapters())
        wave, waves = self._wave(lengths, functools.partial(batching.prefill_bytes, config), stack)
        tokens, ends = batching.padded_tokens(wave, [range(length) for _, length in lengths])
        tokens[:] = 0
        start, length = np.maximum(ends - targets, 1), np.minimum(ends, targets)
        lora = self._lora(wave.shape[0], self.work.updates[0])

        def lower() -> Any:
            with sharding.using(self.machine.mesh):
                return score._score.lower(self.model.params, lora, tokens, start, length, config, targets)

        yield Step(
            name=f"log_likelihood {'x'.join(map(str, tokens.shape))}",
            verb="log_likelihood",
            runs=0,
            tokens=sum(length for _, length in lengths) / waves,
            padded=tokens.size,
            inputs={"weights": self.model.params, "adapters": lora},
            held=self._held(stack, wave),
            lower=lower,
        )

    def _adapters(self) -> int:
        return self.at_once * self.config.inner_runs

    def _update(self, edit: int) -> Update:
        return self.work.updates[edit // self.config.edits % len(self.work.updates)]

    def _questions(self) -> list[tuple[int, int]]:
        """Returns adapter and tokens of every answer prompt of the edits that are scored together."""
        each, runs = self.config.edits, self.config.inner_runs
        contexts = len(self.work.questions)
        return [(k, n) for k in range(self._adapters()) for n in self.work.questions[k // runs // each % contexts]]

    def _stack(self, count: int) -> int:
        """Returns the adapters of a stack with a mesh's padding."""
        return stack_size(count, self.machine.mesh)

    def _lora(self, count: int, update: Update) -> Lora:
        """Returns an abstract stack of adapters, as `Adapters.on` lays it out."""
        targets = resolve_targets(update.targets, self.model.config)
        return abstract_lora(self.model.config, self._stack(count), update.rank, targets, self.machine.mesh)

    def _held(self, stack: int, wave: batching.Wave) -> dict[str, int]:
        """Returns what lies beside a wave: the first weights, and the stack where the wave's adapters are a copy."""
        copied = stack > 1 and wave.shape[0] != stack
        lora = self._lora(stack, self.work.updates[0]) if copied else None
        return {"weights": self.first_weights, "adapters": device_bytes(lora)}

    def _wave(
        self, lengths: Sequence[tuple[int, int]], row_bytes: Callable[[int, int], int], stack: int
    ) -> tuple[batching.Wave, int]:
        """Returns the largest of the waves of some rows (adapter, tokens), which stands for all, and their number."""
        itemsize = np.dtype(self.model.params["norm"].dtype).itemsize
        waves = batching.plan_waves(
            [owner for owner, _ in lengths],
            [length for _, length in lengths],
            lambda length: row_bytes(length, itemsize),
            self.budget,
            self.machine.shards,
            stack,
        )
        return max(waves, key=lambda wave: math.prod(wave.shape)), len(waves)

    def _generating(
        self, verb: str, lengths: list[tuple[int, int]], texts: _Texts, update: Update | None, count: int, chunks: float
    ) -> Iterator[Step]:
        """Yields the two programs of `generate`.

        Args:
          verb: the part of the round.
          lengths: each prompt's adapter and tokens.
          texts: what is written.
          update: what the adapters were made by; `None` for the base model.
          count: adapters.
          chunks: how often a round does all this.
        """
        model, config = self.model, self.model.config
        stack = 1 if update is None else self._stack(count)

        def row_bytes(length: int, itemsize: int) -> int:
            return sampling.row_bytes(config, length, texts.samples, texts.most, itemsize, model.mesh)

        wave, waves = self._wave(lengths, row_bytes, stack)
        tokens, ends = batching.padded_tokens(wave, [range(length) for _, length in lengths])
        tokens[:] = 0
        adapters, prompts, width = tokens.shape
        shape = (adapters, prompts * texts.samples)
        lora = None if update is None else self._lora(adapters, update)
        choice = Choice(
            keys=np.zeros((*shape, 2), np.uint32),
            temperature=np.zeros(shape, np.float32),
            top_p=np.ones(shape, np.float32),
            top_k=np.zeros(shape, np.int32),
        )
        inputs = {"weights": model.params} | ({} if lora is None else {"adapters": lora})
        held = self._held(stack, wave)

        def start(room: int) -> Any:
            with sharding.using(self.machine.mesh):
                return sampling._start.lower(
                    model.params, lora, tokens, ends, choice, config, texts.samples, room, texts.mode
                )

        yield Step(
            name=f"{verb} start {adapters}x{prompts}x{width}",
            verb=verb,
            runs=waves * chunks,
            tokens=sum(length for _, length in lengths) / waves,
            padded=tokens.size,
            inputs=inputs,
            held=held,
            lower=lambda: start(sampling._slots(width, 1, texts.most)),
        )
        if texts.longest == 1:
            return
        trips = min(sampling.CHUNK, texts.longest - 1)
        # The cache doubles as texts grow; its last size stands for all.
        room = sampling._slots(width, texts.longest - 1, texts.most)
        state = self._started(start(room).out_info[0])

        def extend() -> Any:
            with sharding.using(self.machine.mesh):
                return sampling._extend.lower(model.params, lora, state, choice, np.int32(0), config, texts.mode)

        runs = (texts.longest - 1) / trips
        yield Step(
            name=f"{verb} extend {adapters}x{shape[1]}, {room} slots",
            verb=verb,
            runs=waves * chunks * runs,
            tokens=len(lengths) * texts.samples * (texts.typical - 1) / waves / runs,
            padded=math.prod(shape) * trips,
            inputs=inputs | {"cache": state.cache},
            held=held,
            lower=extend,
            trips=trips,
        )

    def _started(self, state: Any) -> sampling.State:
        """Returns the abstract state of a wave of texts, laid out as `Cache.laid_out` says."""

        def placed(leaf: Any, axes: tuple[str | None, ...] = ()) -> jax.ShapeDtypeStruct:
            return self.machine.array(leaf.shape, leaf.dtype, axes or (None,) * len(leaf.shape))

        cache = state.cache.map(placed)
        small = {name: placed(getattr(state, name)) for name in ("tokens", "positions", "slot", "step", "done")}
        return sampling.State(cache=cache, **small)

    def _ticks(self, verb: str, updates: list[Update], chunks: float) -> Iterator[Step]:
        """Yields the ticks of one `adapt`, one program for each shape."""
        config, model, machine = self.model.config, self.model, self.machine
        token_ids = train._token_ids(model, updates)
        encoded = {id(update): schedule.encode(update, token_ids) for update in updates}
        items = [schedule.items(k, u, encoded[id(u)], config.hidden_size) for k, u in enumerate(updates)]
        plan = memory.plan_adapt(config, updates, None, items, model.params, self.budget, machine.mesh)
        shards, row_multiple = memory.divided(len(updates), machine.mesh)
        accumulate = any(not item.shape.whole for own in items for item in own)
        widest = max(updates, key=lambda update: update.rank)
        state = self._state(self._lora(plan.stream, widest), accumulate)
        shard_size = state.scale.shape[0] // shards
        finished = device_bytes(self._lora(len(updates), widest)) - device_bytes(state.factors)
        held = {"weights": self.first_weights, "adapters": max(0, finished)}

        kinds: dict[tuple, _Ticks] = {}  # shapes that a mesh pads to the same one are one program
        for start in range(0, len(updates), plan.stream):
            part = slice(start, start + plan.stream)
            for shape, chosen in schedule.ticks(items[part], plan.slots, shard_size):
                slots, rows = plan.slots(shape) * shards, sharding.round_up(shape.rows, row_multiple)
                kind = slots, rows, shape.time, shape.packed, shape.whole
                kinds.setdefault(kind, _Ticks(shape, part, chosen, slots, rows)).add(chosen)
        for ticks in sorted(kinds.values(), key=lambda ticks: -ticks.rows * ticks.shape.time):
            shape, part = ticks.shape, ticks.part
            batch = schedule.arrays(shape, ticks.chosen, ticks.slots, ticks.rows)
            steps = [own[-1].step + 1 if own else 0 for own in items[part]]
            batch |= train._hyperparameters(ticks.chosen, updates[part], steps, part.start, ticks.slots, shard_size)
            given = state.replace(gradient=None) if shape.whole else state
            aside = device_bytes(state.gradient) if shape.whole else 0
            yield Step(
                name=f"{verb} {ticks.slots}x{ticks.rows}x{shape.time}"
                + (", packed" if shape.packed else "")
                + ("" if shape.whole else ", part of a step")
                + (", remat" if plan.remat else ""),
                verb=verb,
                runs=ticks.count * chunks,
                tokens=ticks.tokens / ticks.count,
                padded=batch["tokens"].size,
                inputs={
                    "weights": model.params,
                    "adapters": given.factors,
                    "optimiser": (given.mu, given.nu, given.gradient),
                },
                held=held | {"optimiser": aside},
                lower=functools.partial(self._lower_tick, given, batch, plan.remat, shards),
            )
        if plan.wave < len(updates):
            yield self._joining(verb, updates, widest, chunks)

    def _joining(self, verb: str, updates: list[Update], widest: Update, chunks: float) -> Step:
        """Returns what happens after several waves: their adapters are put into one stack, and lie there twice."""
        lora = self._lora(len(updates), widest)
        held = {"weights": self.weights + self.first_weights, "adapters": device_bytes(lora)}
        return Step(f"{verb} join {len(updates)}", verb, chunks, 0, 0, {"adapters": lora}, held, None)

    def _state(self, lora: Lora, accumulate: bool) -> training_step.State:
        """Returns the abstract state that training these adapters starts from, sharded as in training."""
        shapes = jax.eval_shape(functools.partial(training_step.initial_state, accumulate=accumulate), lora)
        return training_step.with_axes(lambda leaf, axes: self.machine.array(leaf.shape, leaf.dtype, axes), shapes)

    def _lower_tick(self, state: training_step.State, batch: dict, remat: bool, shards: int) -> Any:
        program = training_step.program(self.machine.platform)
        with sharding.using(self.machine.mesh):
            return program.lower(self.model.params, state, batch, config=self.model.config, remat=remat, shards=shards)


@dataclasses.dataclass(frozen=True)
class _Texts:
    """What `generate` writes: samples a prompt, tokens of a typical and of the longest text and allowed, the mode."""

    samples: int
    typical: int
    longest: int
    most: int
    mode: str


@dataclasses.dataclass
class _Ticks:
    """The ticks of one program: the first one's shape, adapters, items, slots and rows, and how many there are."""

    shape: schedule.Shape
    part: slice
    chosen: dict[int, schedule.Item]
    slots: int
    rows: int
    count: int = 0
    tokens: int = 0

    def add(self, chosen: dict[int, schedule.Item]) -> None:
        """Counts a tick with its real tokens."""
        self.count += 1
        self.tokens += sum(len(s.ids) for item in chosen.values() for row in item.rows for s in row)
