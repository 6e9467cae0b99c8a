"""The work of one round of an experiment in tokens: measured on its data, or assumed without data."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from selfadapt import loop
from selfadapt.domains import make_domain
from selfadapt.domains.common import inner_update
from selfadapt.domains.knowledge.domain import SEAL_LENGTH
from selfadapt.errors import UserError
from selfadapt.models.config import ModelConfig
from selfadapt.models.model import Model
from selfadapt.outer import Trains, make_outer
from selfadapt.types import TokenSequence, TrainingSequence, Update

INSTRUCTIONS = 64  # tokens of an edit prompt besides the passage


@dataclasses.dataclass(frozen=True)
class Assumed:
    """Sizes of texts, in tokens, where no data can be read.

    The defaults are those of SEAL's published files (arXiv 2506.10943: passages of SQuAD, and the untrained
    model's implications of them), at four characters a token.

    Attributes:
      passage: of a passage.
      edit: of a typical edit.
      longest: of the longest edit of a batch, which all others wait for.
      line: of a line of an edit, with the title before it.
      questions: questions per passage.
      question: of an answer prompt.
    """

    passage: int = 200
    edit: int = 240
    longest: int = 1536
    line: int = 36
    questions: int = 5
    question: int = 40

    @classmethod
    def parse(cls, text: str) -> Assumed:
        """Parses sizes such as `passage=200,edit=240`; the others keep their defaults.

        Raises:
          UserError: a name is unknown, or a value is no positive whole number.
        """
        values = {}
        for part in filter(None, text.split(",")):
            name, _, value = part.partition("=")
            if name not in (known := [field.name for field in dataclasses.fields(cls)]):
                raise UserError(f"--tokens has no {name!r}; there are {', '.join(known)}, as in passage=200,edit=240")
            if not value.isdigit() or int(value) < 1:
                raise UserError(f"--tokens: {name} is {value!r}; it must be a positive whole number")
            values[name] = int(value)
        return cls(**values)


@dataclasses.dataclass(frozen=True)
class Workload:
    """One round's work.

    Attributes:
      source: where the sizes come from, in words.
      prompts: tokens of each context's edit prompt.
      edit: tokens of a typical edit.
      longest: tokens of the longest edit of a batch.
      updates: what is trained on an edit, for each context.
      questions: tokens of each context's answer prompts.
      alone: the sequences that are trained on of each context without an edit; they may be part of its update.
    """

    source: str
    prompts: tuple[int, ...]
    edit: int
    longest: int
    updates: tuple[Update, ...]
    questions: tuple[tuple[int, ...], ...]
    alone: tuple[tuple[TrainingSequence, ...], ...] = ()


def workload(config: Any, model: Model, assumed: Assumed | None) -> Workload:
    """Returns the work of a run, measured with its data and the model's tokenizer where both can be read.

    Args:
      config: the experiment.
      model: the model, of which only the architecture and the tokenizer are used.
      assumed: sizes to use even if the data can be read.

    Raises:
      UserError: a field of the config cannot be used, or nothing can be assumed about its domain.
    """
    reason = "as given"
    if assumed is None:
        reason = "assumed, since the model has no tokenizer here"
        if model.tokenizer is not None:
            try:
                return _measured(config, model)
            except (UserError, OSError) as error:
                reason = f"assumed, since the data cannot be read ({error})"
    if config.domain.name != "knowledge":
        raise UserError(
            f"config.domain.name is {config.domain.name!r}, whose updates can only be planned from its data and the "
            "model's tokenizer; give --model a directory that has one"
        )
    return _assumed(config, model.config, assumed or Assumed(), reason)


def _measured(config: Any, model: Model) -> Workload:
    domain = make_domain(config, model)
    split = "heldout" if "protocol" in config else "train"
    tasks = domain.tasks(split, contexts(config), 0)

    def lengths(texts: Sequence[str]) -> tuple[int, ...]:
        return tuple(map(len, model.tokenizer(list(texts), verbose=False)["input_ids"])) if texts else ()

    texts = [domain.oracle(task) for task in tasks]
    edits = lengths([text for text in texts if text is not None]) or (config.sampling.max_new_tokens,)
    updates, questions, alone = [], [], []
    for task, text in zip(tasks, texts, strict=True):
        applied = loop.apply(domain, task, text)
        if not isinstance(applied, Update):
            raise UserError(
                f"config.domain.name {config.domain.name!r} trains nothing, and plans are for what is trained"
            )
        updates.append(applied)
        questions.append(lengths(domain.questions(task, "")))
        without = loop.apply(domain, task, None)
        alone.append(tuple(without.sequences) if isinstance(without, Update) else ())
    most = config.sampling.max_new_tokens
    return Workload(
        source=f"measured on {len(tasks)} contexts of {config.data.path}, with a perfect author's edits",
        prompts=lengths([domain.edit_prompt(task) for task in tasks]),
        edit=min(most, round(sum(edits) / len(edits))),
        longest=min(most, max(edits)),
        updates=tuple(updates),
        questions=tuple(questions),
        alone=tuple(alone),
    )


def _assumed(config: Any, architecture: ModelConfig, sizes: Assumed, reason: str) -> Workload:
    most = config.sampling.max_new_tokens
    edit = min(sizes.edit, most)
    lines = [edit] if config.domain.split == "document" else [sizes.line] * max(1, edit // sizes.line)
    if config.domain.max_segments:
        lines = lines[: config.domain.max_segments]
    padded = min(SEAL_LENGTH, architecture.max_position_embeddings)

    def sequence(length: int) -> TokenSequence:
        if config.domain.padding != "seal":
            return TokenSequence((0,) * length)
        return TokenSequence((0,) * padded, attention=(True,) * length + (False,) * (padded - length))

    update = inner_update(config, architecture).replace(sequences=[sequence(n) for n in (*lines, sizes.passage)])
    count = contexts(config)
    return Workload(
        source=f"{reason}: " + ", ".join(f"{name} {value}" for name, value in dataclasses.asdict(sizes).items()),
        prompts=(sizes.passage + INSTRUCTIONS,) * count,
        edit=edit,
        longest=min(sizes.longest, most),
        updates=(update,) * count,
        questions=((sizes.question,) * sizes.questions,) * count,
        alone=(tuple(update.sequences[-1:]),) * count,
    )


def contexts(config: Any) -> int:
    """Returns how many contexts a round of an experiment has, or a protocol learns."""
    if "protocol" not in config:
        return config.contexts
    fields = config.protocol
    if fields.name == "continual":
        return fields.runs * fields.streams * fields.passages
    return fields.singles if max(fields.sizes) == 1 else max(fields.sizes)


def outer_update(config: Any) -> Trains:
    """Returns the experiment's outer update.

    Raises:
      UserError: it does not describe its training.
    """
    outer = make_outer(config)
    if not isinstance(outer, Trains):
        raise UserError(
            f"config.outer.name is {config.outer.name!r}, which lacks a part of selfadapt.outer.Trains (train, "
            "merge, keep_master, largest_update) and cannot be planned"
        )
    return outer


def finetuning(config: Any, outer: Trains, work: Workload) -> Update:
    """Returns the outer update's training on as many edits as it can select."""
    sequences = []
    for prompt in work.prompts:
        mask = (False,) * prompt + (True,) * work.edit
        sequences.append(TokenSequence((0,) * len(mask), mask=mask))
    return outer.largest_update(config.contexts, config.edits, sequences)
