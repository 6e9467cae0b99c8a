"""The programs that a round runs, with abstract arguments: what to compile, and how often each one runs.

Shapes come from the code that schedules a run (`selfadapt.engine`), applied to the lengths of the workload.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import jax.numpy as jnp

from selfadapt.engine import memory, score
from selfadapt.engine.adapt import training_step
from selfadapt.engine.adapt.work import Stream, TrainingStep, plan_work
from selfadapt.engine.generate import batching, sampling
from selfadapt.engine.generate import programs as generation
from selfadapt.errors import UserError
from selfadapt.models import hf
from selfadapt.models.lora import Lora, abstract_lora, resolve_targets, stack_size
from selfadapt.models.model import Model
from selfadapt.models.peft import abstract_master
from selfadapt.plan.finetuning import full_finetuning
from selfadapt.plan.steps import Machine, Step, device_bytes
from selfadapt.plan.workload import Workload, finetuning, outer_update
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


class Planner:
    """Describes the programs of a round of one experiment on one machine.

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
        # The untrained weights stay in memory for the controls, besides those of the policy once it has been trained
        # and, in bfloat16, the float32 copies of its merged weights.
        self.outer = outer_update(config)
        self.merges = self.outer.merge
        self.first_weights = (self.weights if self.merges else 0) + self._master()
        self.budget = max(0, int(memory.SHARE * (machine.memory - self.weights - self.first_weights)))

    def _master(self) -> int:
        """Returns the bytes on each device of the float32 copies of merged weights."""
        if not (self.merges and self.outer.keep_master) or self.model.dtype == jnp.float32:
            return 0
        targets = resolve_targets(finetuning(self.config, self.outer, self.work).targets, self.model.config)
        return device_bytes(abstract_master(self.model, targets))

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
        """Yields the training steps of the adapters of edits."""
        updates = [self._update(index) for index in range(self.at_once) for _ in range(self.config.inner_runs)]
        yield from self._adapting("adapt", updates, self.edits / self.at_once)

    def answering(self) -> Iterator[Step]:
        """Yields the programs that answer questions, each adapter its own."""
        most = self.config.answer.max_new_tokens
        texts = _Texts(1, most, most, most, "greedy")
        yield from self._generating(
            "answer", self._questions(), texts, self.work.updates[0], self._adapters(), self.edits / self.at_once
        )

    def improving(self) -> Iterator[Step]:
        """Yields the training steps of the policy on the selected edits."""
        update = finetuning(self.config, self.outer, self.work)
        if self.outer.train == "all":
            yield from full_finetuning("improve", update, self.model, self.machine, self.first_weights)
        else:
            yield from self._adapting("improve", [update], 1.0)

    def scoring(self) -> Iterator[Step]:
        """Yields the program of `log_likelihood` on every question, which a round itself does not use."""
        width = score.target_width(min(16, self.config.answer.max_new_tokens))
        owners, prompts = zip(*self._questions(), strict=True)
        lengths = [length + width for length in prompts]
        model, stack = self.model, self._stack(self._adapters())
        chunks = score.schedule(model, owners, lengths, stack=stack, memory_bytes=self.budget)
        chunk = _largest(chunks)
        shape = (*chunk.shape, batching.padded_length(chunk, lengths))
        lora = self._lora(chunk.shape[0], self.work.updates[0])
        yield Step(
            name=f"log_likelihood {'x'.join(map(str, shape))}",
            phase="log_likelihood",
            runs=0,
            tokens=sum(lengths) / len(chunks),
            padded=math.prod(shape),
            inputs={"weights": model.params, "adapters": lora},
            held=self._held(stack, chunk),
            lower=lambda: score.lower(model, lora, shape, width),
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

    def _trained(self, updates: Sequence[Update]) -> Lora:
        """Returns the abstract stack of adapters that updates train: the largest rank, and the targets of any."""
        config, count = self.model.config, self._stack(len(updates))
        targets = resolve_targets([name for u in updates for name in resolve_targets(u.targets, config)], config)
        return abstract_lora(config, count, max(u.rank for u in updates), targets, self.machine.mesh)

    def _held(self, stack: int, chunk: batching.Chunk) -> dict[str, int]:
        """Returns what is kept beside a chunk: the first weights, and the stack if the chunk's adapters are copies."""
        copied = stack > 1 and chunk.shape[0] != stack
        lora = self._lora(stack, self.work.updates[0]) if copied else None
        return {"weights": self.first_weights, "adapters": device_bytes(lora)}

    def _generating(
        self,
        phase: str,
        lengths: list[tuple[int, int]],
        texts: _Texts,
        update: Update | None,
        count: int,
        repeats: float,
    ) -> Iterator[Step]:
        """Yields the two programs of `generate`.

        Args:
          phase: the phase of the round.
          lengths: each prompt's adapter and tokens.
          texts: what is written.
          update: what the adapters were made by; `None` for the base model.
          count: adapters.
          repeats: how often a round does all this.
        """
        model, stack = self.model, 1 if update is None else self._stack(count)
        owners, prompts = zip(*lengths, strict=True)
        chunks = sampling.schedule(
            model,
            owners,
            prompts,
            samples=texts.samples,
            max_new_tokens=texts.most,
            stack=stack,
            memory_bytes=self.budget,
        )
        chunk = _largest(chunks)
        adapters, rows = chunk.shape
        shape = (adapters, rows, width := batching.padded_length(chunk, prompts))
        lora = None if update is None else self._lora(adapters, update)
        inputs = {"weights": model.params} | ({} if lora is None else {"adapters": lora})
        held = self._held(stack, chunk)
        options: dict[str, Any] = {"samples": texts.samples, "mode": texts.mode}
        first_slots = generation.cache_slots(width, 1, texts.most)
        yield Step(
            name=f"{phase} start {'x'.join(map(str, shape))}",
            phase=phase,
            runs=len(chunks) * repeats,
            tokens=sum(prompts) / len(chunks),
            padded=math.prod(shape),
            inputs=inputs,
            held=held,
            lower=lambda: generation.lower_start(model, lora, shape, slots=first_slots, **options),
        )
        if texts.longest == 1:
            return
        trips = min(generation.DECODE_STEPS, texts.longest - 1)
        # The cache doubles as texts grow; its last size stands for all.
        slots = generation.cache_slots(width, texts.longest - 1, texts.most)
        state = generation.abstract_state(model, lora, shape, slots=slots, **options)
        runs = (texts.longest - 1) / trips
        yield Step(
            name=f"{phase} extend {adapters}x{rows * texts.samples}, {slots} slots",
            phase=phase,
            runs=len(chunks) * repeats * runs,
            tokens=len(lengths) * texts.samples * (texts.typical - 1) / len(chunks) / runs,
            padded=adapters * rows * texts.samples * trips,
            inputs=inputs | {"cache": state.cache},
            held=held,
            lower=lambda: generation.lower_extend(model, lora, state, mode=texts.mode),
            trips=trips,
        )

    def _adapting(self, phase: str, updates: list[Update], chunks: float) -> Iterator[Step]:
        """Yields the training steps of one `adapt`, one program for each shape.

        Args:
          phase: the phase of the round.
          updates: what is trained at once.
          chunks: how often a round does this.

        Raises:
          UserError: none of the updates can be trained.
        """
        config, model, machine = self.model.config, self.model, self.machine
        plan = plan_work(model, updates, memory_bytes=self.budget)
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
        finished = device_bytes(self._trained(updates))
        for program in sorted(programs.values(), key=lambda each: -each.step.rows * each.step.shape.time):
            stream, step = program.stream, program.step
            remat = step.shape in stream.plan.remat
            state = training_step.abstract_state(
                self._trained(stream.updates), machine.mesh, optimizer=stream.optimizer, accumulate=stream.accumulates
            )
            given = dataclasses.replace(state, gradient=None) if step.shape.whole else state
            factors = device_bytes(given.factors)
            slots, rows, time = step.array_shape
            yield Step(
                name=f"{phase} {slots}x{rows}x{time}"
                + (", packed" if step.shape.packed else "")
                + ("" if step.shape.whole else ", part of a step")
                + (", remat" if remat else ""),
                phase=phase,
                runs=program.runs * chunks,
                tokens=program.tokens / program.runs,
                padded=math.prod(step.array_shape),
                inputs={
                    "weights": model.params,
                    "adapters": given.factors,
                    "optimizer": (given.optimizer, given.gradient),
                },
                held={
                    "weights": self.first_weights,
                    "adapters": max(0, finished - factors),
                    "optimizer": device_bytes(state.gradient) if step.shape.whole else 0,
                },
                lower=functools.partial(
                    training_step.lower,
                    model.params,
                    given,
                    stream.batch(step),
                    machine.mesh,
                    config=config,
                    optimizer=stream.optimizer,
                    remat=remat,
                    shards=stream.shards,
                ),
            )
        if len(plan.chunks) > 1:
            yield self._joining(phase, updates, chunks)

    def _joining(self, phase: str, updates: list[Update], chunks: float) -> Step:
        """Returns what follows several chunks: their adapters are copied into one stack."""
        lora = self._trained(updates)
        held = {"weights": self.weights + self.first_weights, "adapters": device_bytes(lora)}
        return Step(f"{phase} join {len(updates)}", phase, chunks, 0, 0, {"adapters": lora}, held, None)


def _largest(chunks: Sequence[batching.Chunk]) -> batching.Chunk:
    """Returns the chunk with the most rows, which stands for all."""
    return max(chunks, key=lambda chunk: math.prod(chunk.shape))


@dataclasses.dataclass(frozen=True)
class _Texts:
    """What `generate` writes: samples a prompt, tokens of a typical and of the longest text and allowed, the mode."""

    samples: int
    typical: int
    longest: int
    most: int
    mode: str


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
