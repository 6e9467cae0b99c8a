"""Knowledge incorporation: the model reads a passage, writes an edit, trains on it, answers without the passage.

SEAL's first domain (arXiv 2506.10943, section 4.1 and appendix B): tasks from any source of passages and
questions, edits turned into training sequences by SEAL's rules, answers graded.
"""

from __future__ import annotations

import dataclasses
import random
import re
from collections.abc import Sequence
from typing import Any

from selfadapt import data
from selfadapt.domains.base import Applied
from selfadapt.domains.knowledge import prompts
from selfadapt.domains.tiny import world
from selfadapt.errors import InvalidTypeError, InvalidValueError, UserError
from selfadapt.graders import GradeItem, Grader, get_grader
from selfadapt.models.config import ModelConfig
from selfadapt.models.lora import resolve_targets
from selfadapt.models.model import Model
from selfadapt.types import ContextEdit, Task, TokenSequence, Update

SPLITS = ("lines", "document")
BASELINES = ("passage", "unchanged")
PADDINGS = ("none", "seal")
SEAL_LENGTH = 2048  # tokens; SEAL pads every training sequence to this

_QUESTION = re.compile(r"Question\s+\d+:")
_ANSWER = re.compile(r"Answer\s*:")
_BEFORE_QUESTION = re.compile(r"\n(?=[ \t]*Question\s+\d+:)")
# Control characters carry no knowledge and some tokenizers turn each into several byte tokens.
_CONTROL = {code: None for code in range(32) if chr(code) not in "\t\n"} | {0x7F: None}


def _clean(text: str) -> str:
    text = text.replace("\r\n", "\n").replace("\r", "\n").translate(_CONTROL)
    # Half of a surrogate pair, which JSON can hold, has no UTF-8 form and no tokenizer takes it.
    return text.encode("utf-8", "replace").decode("utf-8")


def _segments(completion: str, split: str) -> Sequence[str]:
    whole = completion.strip()
    pieces = [piece.strip() for piece in completion.split("---") if piece.strip()] or [whole]
    if split == "document":
        return pieces
    if _QUESTION.search(whole) and _ANSWER.search(whole):
        pairs = [pair.strip() for pair in _BEFORE_QUESTION.split(whole)]
        if not pairs[0].startswith("Question"):
            # The self-qa prompt ends in this heading, so the completion starts after it.
            pairs[0] = f"Question 1: {pairs[0]}"
        return pairs
    lines = [line.strip() for piece in pieces for line in piece.split("\n") if line.strip()]
    if len(lines) > 1 and lines[1].startswith("1."):
        return lines[1:]  # the first line only announces the numbered list
    return lines


def training_sequences(
    completion: str,
    *,
    title: str,
    context: str,
    split: str = "lines",
    add_context: bool = True,
    max_segments: int | None = None,
) -> list[str]:
    r"""Turns an edit's text into the sequences that an inner update trains on (SEAL, appendix B.3).

    By lines, every line is a sequence, except that a numbered list's announcement is dropped and that
    a line of three dashes only separates; a text of "Question 1: ... Answer: ..." pairs is split by pair.
    As a document, the text is one sequence, or one for each part between "---". Each sequence is
    the title, a newline and the segment; the passage itself is the last one.

    An empty completion gives the passage alone by lines, and also the bare title as a document: SEAL's
    passage-only continued pretraining counts both (400 sequences for 200 passages). A text without
    line breaks is one sequence, however long: what a model's context holds is for the caller to cut.
    Control characters are removed and unpaired surrogates become "?".

    Args:
      completion: what the policy wrote.
      title: the passage's title.
      context: the passage.
      split: "lines" (one passage learnt at a time) or "document" (continued pretraining).
      add_context: whether the passage is the last sequence.
      max_segments: the most segments taken from the completion, the first ones; `None` for all.

    Returns:
      The training sequences.

    Raises:
      TypeError: `completion` is not text.
      ValueError: `split` or `max_segments` is out of range.

    >>> training_sequences("1. It is old.\n2. It is red.", title="Mars", context="An old red planet.")
    ['Mars\n1. It is old.', 'Mars\n2. It is red.', 'Mars\nAn old red planet.']
    """
    if not isinstance(completion, str):
        raise InvalidTypeError(f"a completion is text, not {type(completion).__name__}: {completion!r:.80}")
    if split not in SPLITS:
        raise InvalidValueError(f"split is {split!r}; it must be one of {', '.join(SPLITS)}")
    if max_segments is not None and max_segments < 0:
        raise InvalidValueError(f"max_segments is {max_segments!r}; it must be at least 0, or None for all")
    sequences = [f"{title}\n{segment}" for segment in _segments(_clean(completion), split)[:max_segments]]
    return [*sequences, f"{title}\n{context}"] if add_context else sequences


@dataclasses.dataclass(frozen=True)
class Knowledge:
    """The domain; `make` builds it from a config.

    Attributes:
      policy: the model that writes edits, for its tokenizer and context length.
      student: the model to adapt, likewise.
      source: "tiny_world", or whatever `selfadapt.data.load_tasks` reads.
      train: the passages to train on, none for the tiny world, which makes its own.
      heldout: those to judge by.
      seed: chooses the passages of each round.
      prompt: key or text of the edit prompt.
      answer_style: see `prompts.answer_prompt`.
      chat: whether the edit prompt is a chat, for instruct models.
      split: how an edit is cut into sequences, "lines" or "document".
      max_segments: the most sequences of an edit, 0 for all.
      padding: "seal" pads every sequence with trained end-of-sequence tokens to 2048, as SEAL's code does.
      update: the inner update without its sequences.
      grader: judges answers.
      passage_is_baseline: whether edits are compared with the passage alone, or with no adaptation.
    """

    policy: Model
    student: Model
    source: str
    train: tuple[Task, ...]
    heldout: tuple[Task, ...]
    seed: int
    prompt: str
    answer_style: str
    chat: bool
    split: str
    max_segments: int
    padding: str
    update: Update
    grader: Grader
    passage_is_baseline: bool = True

    def tasks(self, split: str, count: int, round: int = 0) -> list[Task]:
        """Returns passages: of "train" other ones each round, of "heldout" always the same.

        Raises:
          UserError: the source holds too few passages.
        """
        if self.source == "tiny_world":
            skip = count * round if split == "train" else 0
            return world.tasks(split, skip + count, self.seed)[skip:]
        pool = list(self.heldout if split == "heldout" else self.train)
        if count > len(pool):
            raise UserError(
                f"config.data.path: {self.source} leaves {len(pool)} passages for {split!r} and {count} are asked for; "
                "lower config.contexts or config.evaluation.contexts"
            )
        if split == "heldout":
            return pool[:count]
        # One random order of all passages, taken in turns: no passage comes twice before all came once.
        order = [task for lap in range((round + 1) * count // len(pool) + 1) for task in self._lap(pool, lap)]
        return order[round * count : (round + 1) * count]

    def _lap(self, pool: list[Task], lap: int) -> list[Task]:
        return random.Random(f"passages {self.seed} {lap}").sample(pool, len(pool))

    def edit_prompt(self, task: Task) -> str:
        """Returns the prompt for an edit of a passage."""
        if not self.chat:
            return prompts.edit_prompt(self.prompt, title=task.title, context=task.context)
        messages = prompts.edit_messages(self.prompt, title=task.title, context=task.context)
        return self.policy.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)

    def apply(self, task: Task, text: str | None) -> Applied:
        """Returns the update on an edit's sequences and the passage; without an edit, on the passage alone."""
        if text is None:
            sequences = [f"{task.title}\n{task.context}"]
        else:
            sequences = training_sequences(
                text, title=task.title, context=task.context, split=self.split, max_segments=self.max_segments or None
            )
        return self.update.replace(sequences=[self._fitted(sequence) for sequence in sequences])

    def _fitted(self, text: str) -> str | TokenSequence:
        """Cuts a text to the model's context, as one endless line needs, and pads it if asked to."""
        limit = self.student.config.max_position_embeddings
        if self.padding == "none" and len(text) <= limit:
            return text  # a token is at least a character, so this cannot be too long
        limit = min(limit, SEAL_LENGTH) if self.padding == "seal" else limit
        ids = tuple(self.student.tokenizer(text, verbose=False)["input_ids"][:limit])
        if self.padding == "none":
            return TokenSequence(ids)
        pads = limit - len(ids)
        return TokenSequence(
            ids + (self.student.config.eos_token_ids[0],) * pads, attention=(True,) * len(ids) + (False,) * pads
        )

    def unchanged(self, task: Task) -> Applied:
        """Returns the model as it is, with nothing in its context."""
        del task
        return ContextEdit("")

    def baseline(self, task: Task) -> Applied:
        """Returns the update on the passage alone, or nothing, as the config says."""
        return self.apply(task, None) if self.passage_is_baseline else self.unchanged(task)

    def questions(self, task: Task, context: str) -> list[str]:
        """Returns the answer prompts, after the passage or memo in `context` if there is one."""
        return [
            prompts.answer_prompt(question.question, title=task.title, style=self.answer_style, context=context)
            for question in task.questions
        ]

    def grade(self, tasks: Sequence[Task], answers: Sequence[Sequence[str]]) -> list[list[float]]:
        """Returns a verdict for each answer; all go to the grader at once."""
        items = [
            GradeItem(question.question, question.answers, answer)
            for task, texts in zip(tasks, answers, strict=True)
            for question, answer in zip(task.questions, texts, strict=True)
        ]
        verdicts = iter(self.grader.grade(items))
        return [[next(verdicts) for _ in texts] for texts in answers]

    def oracle(self, task: Task) -> str | None:
        """Returns gold question-answer lines; in the tiny world their wordings differ from the evaluation's."""
        if self.source == "tiny_world":
            return "\n".join(world.gold_lines(task))
        return "\n".join(f"Question: {question.question} Answer: {question.answers[0]}" for question in task.questions)

    def describe(self, task: Task, text: str) -> dict[str, int]:
        """Counts the kinds of an edit's lines, in the tiny world."""
        counts: dict[str, int] = {}
        if self.source == "tiny_world":
            for line in filter(None, map(str.strip, text.split("\n"))):
                kind = world.classify_line(task, line).kind
                counts[kind] = counts.get(kind, 0) + 1
        return counts


def make(config: Any, policy: Model, student: Model) -> Knowledge:
    """Makes the domain from a resolved config; `selfadapt/defaults.py` explains its fields.

    Raises:
      UserError: a field's value is unknown, or the data cannot be used with these models.
    """
    fields = config.domain
    for field, value, allowed in (
        ("split", fields.split, SPLITS),
        ("baseline", fields.baseline, BASELINES),
        ("padding", fields.padding, PADDINGS),
        ("answer_prompt", fields.answer_prompt, prompts.ANSWER_STYLES),
    ):
        if value not in allowed:
            raise InvalidValueError(f"config.domain.{field} is {value!r}; it must be one of {', '.join(allowed)}")
    update = inner_update(config, student.config)
    if fields.padding == "seal" and not student.config.eos_token_ids:
        raise UserError("config.domain.padding is 'seal', and the model has no end-of-sequence token to pad with")
    prompt = fields.prompt
    if prompt.endswith(".txt"):
        prompt = prompts.load_template(prompt)
    prompts.edit_prompt(prompt, title="", context="")
    options = {
        name: value for name, value in config.grader.items() if name not in ("name", "prompt") and value is not None
    }
    grader = config.grader.name
    if grader == "auto":  # answers in sentences are right by containment and never by exact match
        grader = "exact" if config.data.path == "tiny_world" else "containment"
    if grader == "model":
        options["generate_fn"] = _judge(student)
    elif grader == "log-likelihood":
        raise UserError(
            "config.grader.name is 'log-likelihood', which grades gold answers and not what the model writes; "
            "use selfadapt.log_likelihood from Python"
        )
    domain = Knowledge(
        policy=policy,
        student=student,
        source=config.data.path,
        train=(),
        heldout=(),
        seed=config.seed,
        prompt=prompt,
        answer_style=fields.answer_prompt,
        chat=fields.chat,
        split=fields.split,
        max_segments=fields.max_segments,
        padding=fields.padding,
        update=update,
        grader=get_grader(grader, **options),
        passage_is_baseline=fields.baseline == "passage",
    )
    if domain.source == "tiny_world":
        return domain  # it makes its own passages

    def load(path: str, split: str | None = None) -> list[Task]:
        tasks = data.load_tasks(path, split=split)
        return _fitting(domain, config, data.seal_subset(tasks, len(tasks)))  # in SEAL's order

    train = load(config.data.path, config.data.split or None)
    if config.data.eval_path:
        heldout = load(config.data.eval_path)
        known = {task.id for task in heldout}
        train = [task for task in train if task.id not in known]
    else:
        train, heldout = train[config.evaluation.contexts :], train[: config.evaluation.contexts]
    return dataclasses.replace(domain, train=tuple(train), heldout=tuple(heldout))


def inner_update(config: Any, architecture: ModelConfig) -> Update:
    """Returns the inner update of a resolved config, without its sequences.

    Raises:
      ValueError: a hyper-parameter is out of range, or a target is no projection of the architecture.
    """
    update = Update((), **config.inner)
    return update.replace(targets=resolve_targets(update.targets, architecture))


def _fitting(domain: Knowledge, config: Any, tasks: Sequence[Task]) -> list[Task]:
    """Checks that every passage fits the model's context; drops those that do not if the config says so.

    Raises:
      UserError: a passage does not fit.
    """
    limit = domain.policy.config.max_position_embeddings - config.sampling.max_new_tokens

    def fits(task: Task) -> bool:
        prompt = domain.edit_prompt(task)
        if len(prompt) <= limit or (size := len(domain.policy.tokenizer(prompt, verbose=False)["input_ids"])) <= limit:
            return True
        if config.data.skip_long:
            return False
        raise UserError(
            f"{domain.source}: the passage {task.title!r} ({task.id}) makes an edit prompt of {size} tokens, and with "
            f"config.sampling.max_new_tokens={config.sampling.max_new_tokens} the model's context of "
            f"{domain.policy.config.max_position_embeddings} leaves {limit}; set config.data.skip_long=True to leave "
            "such passages out"
        )

    return list(filter(fits, tasks))


def _judge(model: Model):
    from selfadapt.engine.generate.sampling import generate

    return lambda texts: generate(model, texts, max_new_tokens=8, stop="\n")
