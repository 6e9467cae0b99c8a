"""Contexts with their questions as arrays, made on the host before a program runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import flax
import numpy as np

from selfadapt.domains.knowledge import Knowledge
from selfadapt.errors import InvalidValueError
from selfadapt.functional.lines import token_kinds
from selfadapt.models.model import Model
from selfadapt.types import Task


@flax.struct.dataclass
class Texts:
    """Token sequences as a padded array.

    Attributes:
      tokens: token ids, right-padded, `[..., T]`.
      lengths: the tokens of each, `[...]`; 0 where there is none.
    """

    tokens: Any
    lengths: Any


@flax.struct.dataclass
class Contexts:
    """C contexts with up to Q questions each. All arrays have the contexts as their first axis.

    Attributes:
      prompts: after which the policy writes an edit, `[C]`.
      prefixes: what comes before each line of an edit in its training row, `[C]`.
      passages: the training row that an adapter has besides the lines; none where the length is 0, `[C]`.
      questions: what the adapted model is asked, `[C, Q]`.
      answers: the right answers, `[C, Q]`; where the length is 0 there is no question.
    """

    prompts: Texts
    prefixes: Texts
    passages: Texts
    questions: Texts
    answers: Texts


@flax.struct.dataclass
class Vocabulary:
    """What a program has to know about tokens.

    Attributes:
      kinds: what each token is to the lines of an edit (`selfadapt.functional.lines`), `[vocab]`.
      answer_ends: whether it ends an answer, `[vocab]`.
      row_end: the special tokens that end a training row, token ids, `[E]`; often none.
    """

    kinds: Any
    answer_ends: Any
    row_end: Any


def knowledge_contexts(domain: Knowledge, tasks: Sequence[Task]) -> Contexts:
    """Returns passages of the knowledge domain, with its prompts and the rows that it makes of an edit.

    Prefix and line are tokenised each for itself. Where the tokens of "title, newline, line" are those of "title,
    newline" and those that the policy wrote, as with the embedded model, the rows are those of `Knowledge.apply`. Of
    its rules only "every line is a row" has a counterpart: numbered lists, "---" and numbered questions are lines.

    Args:
      domain: the domain; its student is also the policy.
      tasks: the passages. The first answer of each question counts.

    Raises:
      InvalidValueError: a setting of the domain has no counterpart on the device.
    """
    if domain.split != "lines" or domain.padding != "none" or domain.marker or domain.edit_prompts.chat:
        raise InvalidValueError(
            f"the domain has split {domain.split!r}, padding {domain.padding!r}, marker {domain.marker!r} and chat "
            f"{domain.edit_prompts.chat}; on the device edits are split into 'lines', with padding 'none', no marker "
            "and no chat"
        )
    student = domain.student
    start, _ = _special_tokens(student)
    most = max(len(task.questions) for task in tasks)
    questions, answers = [], []
    for task in tasks:
        missing: list[list[int]] = [[]] * (most - len(task.questions))
        questions += [*(_ids(student, text) for text in domain.questions(task, "")), *missing]
        answers += [*(_ids(student, f" {each.answers[0]}", special=False) for each in task.questions), *missing]
    return Contexts(
        prompts=padded([_ids(student, domain.edit_prompt(task)) for task in tasks]),
        prefixes=padded([[*start, *_ids(student, f"{task.title}\n", special=False)] for task in tasks]),
        passages=padded([_ids(student, f"{task.title}\n{task.context}") for task in tasks]),
        questions=padded(questions, (len(tasks), most)),
        answers=padded(answers, (len(tasks), most)),
    )


def vocabulary(model: Model, *, answer_stop: Sequence[str] = ("\n",)) -> Vocabulary:
    """Returns what programs have to know about the tokens of a model.

    Args:
      model: the model.
      answer_stop: strings that end an answer: a token that contains one does, and so does the end of a sequence.
    """
    size = model.config.vocab_size
    ends = np.zeros(size, bool)
    ends[list(model.config.eos_token_ids)] = True
    for token in range(min(size, len(model.tokenizer))):
        text = model.tokenizer.decode([token], clean_up_tokenization_spaces=False)
        ends[token] |= any(string in text for string in answer_stop)
    _, end = _special_tokens(model)
    return Vocabulary(token_kinds(model.tokenizer, size), ends, np.asarray(end, np.int32))


def padded(sequences: Sequence[Sequence[int]], shape: tuple[int, ...] | None = None) -> Texts:
    """Returns token sequences as a right-padded array.

    Args:
      sequences: the sequences, in the order of the shape.
      shape: the leading axes of the result; one by default.
    """
    tokens = np.zeros((len(sequences), max([1, *map(len, sequences)])), np.int32)
    for row, ids in zip(tokens, sequences, strict=True):
        row[: len(ids)] = ids
    shape = (len(sequences),) if shape is None else shape
    lengths = np.asarray([len(ids) for ids in sequences], np.int32)
    return Texts(tokens.reshape(*shape, -1), lengths.reshape(shape))


def _special_tokens(model: Model) -> tuple[list[int], list[int]]:
    """Returns the special tokens that the model's tokenizer puts before and after a text."""
    whole, bare = _ids(model, "a"), _ids(model, "a", special=False)
    start = next(i for i in range(len(whole)) if whole[i : i + len(bare)] == bare)
    return whole[:start], whole[start + len(bare) :]


def _ids(model: Model, text: str, special: bool = True) -> list[int]:
    return model.tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"]
