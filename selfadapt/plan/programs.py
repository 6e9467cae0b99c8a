"""The programs that a run consists of, with abstract arguments: what to compile, and how often each one runs.

Shapes come from the code that schedules a run (`selfadapt.engine`), applied to the lengths of texts.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from selfadapt.engine.adapt import training_step
from selfadapt.engine.adapt.work import Stream, TrainingStep, plan_work
from selfadapt.engine.generate import batching, sampling
from selfadapt.engine.generate import programs as generation
from selfadapt.errors import UserError
from selfadapt.models import hf
from selfadapt.models.lora import Adapters, Lora, abstract_lora, resolve_targets, stack_size
from selfadapt.models.model import Model
from selfadapt.parallel import sharding
from selfadapt.parallel.sharding import device_bytes
from selfadapt.plan.steps import Machine, Step
from selfadapt.plan.writing import Texts, write
from selfadapt.types import Update


def abstract_model(model: Model, machine: Machine, dtype: str) -> Model:
    """Returns a model whose parameters are abstract arrays, sharded as on a machine."""
    params: dict[str, Any] = {"layers": {}}
    for weight in hf.weights(model.config):
        leaf = machine.array(weight.array_shape(model.config.num_layers), jnp.dtype(dtype), weight.axes)
        (params["layers"] if weight.stacked else params)[weight.path[-1]] = leaf
    other = model.with_params(params)
    other.mesh = machine.mesh
    return other


@dataclasses.dataclass(frozen=True)
class Stack:
    """Adapters of one rank on the same projections (`selfadapt.models.lora.resolve_targets`)."""

    count: int
    rank: int
    targets: str | Sequence[str]


class Programs:
    """Describes programs of one model on one machine.

    Attributes:
      model: an abstract model (`abstract_model`).
      machine: the machine.
      others: bytes on each device of weights that stay in memory besides the model's.
      weights: bytes on each device of the model's weights.
      budget: bytes on each device for adapters, caches and activations.
    """

    def __init__(self, model: Model, machine: Machine, others: int):
        self.model, self.machine, self.others = model, machine, others
        self.weights = device_bytes(model.params)
        self.budget = machine.budget(self.weights + others)

    def lora(self, stack: Stack) -> Lora:
        """Returns an abstract stack of adapters, with a mesh's padding, as `Adapters.on` lays it out."""
        config, mesh = self.model.config, self.machine.mesh
        targets = resolve_targets(stack.targets, config)
        return abstract_lora(config, stack_size(stack.count, mesh), stack.rank, targets, mesh)

    def trained(self, updates: Sequence[Update]) -> Lora:
        """Returns the abstract stack of adapters that updates train: the largest rank, and the targets of any."""
        config = self.model.config
        targets = [name for u in updates for name in resolve_targets(u.targets, config)]
        return self.lora(Stack(len(updates), max(u.rank for u in updates), targets))

    def held(self, stack: Lora | None, slots: int) -> dict[str, int]:
        """Returns what is kept beside a chunk of rows: other weights, and a stack of which its adapters are copies."""
        size = 1 if stack is None else stack.scale.shape[0]
        copied = size > 1 and slots != size
        return {"weights": self.others, "adapters": device_bytes(stack) if copied else 0}

    def generating(
        self,
        phase: str,
        lengths: Sequence[tuple[int, int]],
        texts: Texts,
        adapters: Stack | None,
        repeats: float,
    ) -> Iterator[Step]:
        """Yields the programs of `generate`: those of the prompts, and one for each stage of the texts (`write`).

        Args:
          phase: the phase of the run.
          lengths: each prompt's adapter and tokens.
          texts: what is written.
          adapters: those of the prompts; `None` for the base model.
          repeats: how often a run does all this.
        """
        written, mean = texts.lengths(len(lengths) * texts.samples), float(texts.typical)
        for reserved in sampling.reservations(texts.most):
            made, left = self._writing(phase, lengths, written, mean, texts, adapters, reserved)
            for step in made:
                yield dataclasses.replace(step, runs=step.runs * repeats)
            if not len(left):
                break
            lengths = [lengths[index * len(lengths) // len(left)] for index in range(len(left))]
            texts, written, mean = dataclasses.replace(texts, samples=1), left, left.mean()

    def _writing(
        self,
        phase: str,
        lengths: Sequence[tuple[int, int]],
        written: np.ndarray,
        mean: float,
        texts: Texts,
        adapters: Stack | None,
        reserved: int,
    ) -> tuple[list[Step], np.ndarray]:
        """Returns the programs of one time that `generate` goes through prompts, and the texts that need another.

        Args:
          phase: the phase of the run.
          lengths: each prompt's adapter and tokens.
          written: tokens of each text.
          mean: their mean.
          texts: what is written.
          adapters: those of the prompts.
          reserved: tokens of each text that memory is reserved for.
        """
        model, shards = self.model, sharding.num_shards(self.machine.mesh)
        stack = None if adapters is None else self.lora(adapters)
        owners, prompts = zip(*lengths, strict=True)
        chunks = sampling.schedule(
            model,
            owners,
            prompts,
            samples=texts.samples,
            max_new_tokens=reserved,
            stack=1 if stack is None else stack.scale.shape[0],
            memory_bytes=self.budget,
        )
        chunk = largest_chunk(chunks)
        slots, rows = chunk.shape
        shape = (slots, rows, width := batching.padded_length(chunk, prompts))
        lora = None if adapters is None else self.lora(dataclasses.replace(adapters, count=slots))
        inputs = {"weights": model.params} | ({} if lora is None else {"adapters": lora})
        held = self.held(stack, slots)
        options: dict[str, Any] = {"samples": texts.samples, "mode": texts.mode}
        first_places = generation.cache_slots(width, 1, texts.most)
        size = slots * rows * texts.samples
        each = np.resize(written, size + len(chunk.waiting) * texts.samples)
        streams = sampling.parallel_streams(model, len(lengths) * texts.samples)
        limit = self.budget // streams - sampling.layer_copies(model)
        found = write(
            each[:size].reshape(slots, -1),
            width,
            texts.most,
            shards,
            samples=texts.samples,
            waiting=each[size:],
            rows=functools.partial(sampling.rows_beside, model, limit) if reserved < texts.most else None,
        )
        share = len(written) / len(chunks) / len(each)  # texts of a chunk by rows of its shape
        kept = (len(written) * (mean - 1) / len(chunks) - share * (found.left - 1).sum()) / max(
            1, sum(stage.tokens for stage in found.stages)
        )
        steps = [
            Step(
                name=f"{phase} start {'x'.join(map(str, shape))}",
                phase=phase,
                runs=len(chunks),
                tokens=sum(prompts) / len(lengths) * slots * rows * share,
                padded=math.prod(shape),
                inputs=inputs,
                held=held,
                lower=lambda: generation.lower_start(model, lora, shape, slots=first_places, **options),
            )
        ]
        for stage in found.stages:
            small = None if adapters is None else self.lora(dataclasses.replace(adapters, count=stage.shape[0]))
            state = generation.abstract_state(
                model, small, (*stage.shape, width), slots=stage.slots, samples=1, mode=texts.mode
            )
            trips = min(generation.DECODE_STEPS, stage.steps)
            runs = stage.steps / trips
            steps.append(
                Step(
                    name=f"{phase} extend {stage.shape[0]}x{stage.shape[1]}, {stage.slots} slots",
                    phase=phase,
                    runs=len(chunks) * runs,
                    tokens=stage.tokens * kept / runs,
                    padded=stage.padded / runs,
                    inputs=inputs | ({} if small is None else {"adapters": small}) | {"cache": state.cache},
                    held=self.held(stack, stage.shape[0]),
                    lower=functools.partial(generation.lower_extend, model, small, state, mode=texts.mode),
                    trips=trips,
                )
            )
        if found.fills:
            few = (1, found.fill, width)
            whole = (slots, rows * texts.samples, width)
            state = generation.abstract_state(model, lora, whole, slots=found.slots, samples=1, mode=texts.mode)
            steps.append(
                Step(
                    name=f"{phase} start {'x'.join(map(str, few))}, in places of others",
                    phase=phase,
                    runs=len(chunks) * found.fills,
                    tokens=sum(prompts) / len(lengths) * len(chunk.waiting) / found.fills,
                    padded=math.prod(few),
                    inputs=inputs | {"cache": state.cache},
                    held=held,
                    lower=lambda: generation.lower_start(model, lora, few, slots=found.slots, **options),
                )
            )
        return steps, np.resize(found.left, round(share * len(chunks) * len(found.left)))

    def adapting(
        self, phase: str, updates: Sequence[Update], repeats: float, on: Stack | None = None
    ) -> Iterator[Step]:
        """Yields the training steps of one `adapt`, one program for each shape.

        Args:
          phase: the phase of the run.
          updates: what is trained at once.
          repeats: how often a run does this.
          on: frozen adapters under those in training, if any.

        Raises:
          UserError: none of the updates can be trained.
        """
        config, model, machine = self.model.config, self.model, self.machine
        below = None if on is None else self.lora(on)
        frozen = None if below is None else Adapters(below, ())
        plan = plan_work(model, updates, memory_bytes=self.budget, on=frozen)
        if not plan.micro_batches:
            raise UserError(
                f"{phase}: none of the updates can be trained ({plan.problems[0]}); texts must be shorter, or their "
                "sizes given with --tokens"
            )
        streams = [stream for chunk in plan.chunks for stream in chunk]
        programs: dict[tuple, _Program] = {}  # shapes that a mesh pads to the same one are one program
        for stream in streams:
            for step in stream.training_steps():
                key = *step.array_shape, step.shape.packed, step.shape.whole, stream.optimizer
                programs.setdefault(key, _Program(stream, step)).add(step)
        finished = device_bytes((self.trained(updates), below))
        for program in sorted(programs.values(), key=lambda each: -each.step.rows * each.step.shape.time):
            stream, step = program.stream, program.step
            remat = step.shape in stream.plan.remat
            state = training_step.abstract_state(
                self.trained(stream.updates), machine.mesh, optimizer=stream.optimizer, accumulate=stream.accumulates
            )
            given = dataclasses.replace(state, gradient=None) if step.shape.whole else state
            factors = device_bytes(given.factors)
            under = None
            if on is not None:
                lora = self.lora(dataclasses.replace(on, count=len(stream.updates)))
                under = training_step.abstract_adapters_first(lora, machine.mesh)
            slots, rows, time = step.array_shape
            yield Step(
                name=f"{phase} {slots}x{rows}x{time}"
                + (", packed" if step.shape.packed else "")
                + ("" if step.shape.whole else ", part of a step")
                + (", remat" if remat else ""),
                phase=phase,
                runs=program.runs * repeats,
                tokens=program.tokens / program.runs,
                padded=math.prod(step.array_shape),
                inputs={
                    "weights": model.params,
                    "adapters": (given.factors, under),
                    "optimizer": (given.optimizer, given.gradient),
                },
                held={
                    "weights": self.others,
                    "adapters": max(0, finished - factors),
                    "optimizer": device_bytes(state.gradient) if step.shape.whole else 0,
                },
                lower=functools.partial(
                    training_step.lower,
                    model.params,
                    given,
                    stream.batch(step),
                    machine.mesh,
                    under,
                    config=config,
                    optimizer=stream.optimizer,
                    remat=remat,
                    shards=stream.shards,
                ),
            )
        if len(plan.chunks) > 1:
            yield self._joining(phase, updates, repeats)

    def _joining(self, phase: str, updates: Sequence[Update], repeats: float) -> Step:
        """Returns what follows several chunks: their adapters are copied into one stack."""
        lora = self.trained(updates)
        held = {"weights": self.weights + self.others, "adapters": device_bytes(lora)}
        return Step(f"{phase} join {len(updates)}", phase, repeats, 0, 0, {"adapters": lora}, held, None)


def largest_chunk(chunks: Sequence[batching.Chunk]) -> batching.Chunk:
    """Returns the chunk with the most rows, which stands for all."""
    return max(chunks, key=lambda chunk: math.prod(chunk.shape) + len(chunk.waiting))


@dataclasses.dataclass
class _Program:
    """A program of `adapt`: its first stream and training step, how many it runs, and their tokens."""

    stream: Stream
    step: TrainingStep
    runs: int = 0
    tokens: int = 0

    def add(self, step: TrainingStep) -> None:
        """Counts a training step."""
        self.runs += 1
        self.tokens += step.tokens
