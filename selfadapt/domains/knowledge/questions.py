"""Questions that the policy writes about passages and answers with the passage at hand.

Rewards then need no given questions: the remedy that SEAL's authors suggest for a reward that every context needs
questions and answers for (arXiv 2506.10943, section 5).
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import itertools
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from selfadapt.checkpoint import units
from selfadapt.domains.common import fits
from selfadapt.domains.knowledge.prompts import answer_prompt, parse_answer
from selfadapt.engine.generate import generate
from selfadapt.errors import InvalidValueError
from selfadapt.graders import normalize_answer
from selfadapt.models.policy import Policy
from selfadapt.telemetry.progress import Phase
from selfadapt.types import Question, Task

if TYPE_CHECKING:
    from selfadapt.domains.knowledge.domain import EditPrompts

ORIGINS = ("given", "written")
# Why questions are dropped, in the order in which they are.
DROPPED = ("unparsable", "duplicate", "too long", "beyond the most", "unanswered")
FILE = "questions.json"

_HEADING = re.compile(r"^(?:Q(?:uestion)?\s*\d*\s*[:.]|(?:\d+\s*[.):]|[-*])(?=\s))\s*", re.IGNORECASE)
_ANSWER = re.compile(r"(?:^|(?<=\?))\s*A(?:nswer)?\s*\d*\s*:.*", re.IGNORECASE)


def parse_questions(text: str) -> tuple[list[str], int]:
    r"""Returns the questions of a text, and how many of its lines have none.

    A line's question ends with its last question mark; a number or "Question" before it, and "Answer:" with what
    follows, are not part of it. Blank lines and lines of an answer do not count.

    >>> parse_questions("Question 1: Who? Answer: Ada.\n2. When?\nAnswer: Never.\nThe sky is green.\nQuestion: Whe")
    (['Who?', 'When?'], 2)
    """
    found, without = [], 0
    for line in map(str.strip, text.splitlines()):
        asked = _ANSWER.sub("", line)
        question = _HEADING.sub("", asked[: asked.rfind("?") + 1], count=1)
        if any(map(str.isalnum, question)):
            found.append(question)
        elif asked:
            without += 1
    return found, without


@dataclasses.dataclass(frozen=True)
class About:
    """The written questions about one passage.

    Attributes:
      task: the passage, with the questions that were given.
      questions: those that were written, each with its answer.
      dropped: how many were dropped, for each reason of `DROPPED`.
    """

    task: Task
    questions: tuple[Question, ...]
    dropped: Mapping[str, int]


@dataclasses.dataclass(frozen=True)
class Written:
    """The written questions about all passages.

    Attributes:
      about: those about each passage, by its task's id.
    """

    about: Mapping[str, About]

    def ask(self, tasks: Sequence[Task]) -> list[Task]:
        """Returns tasks with the written questions in place of the given ones, without those that have none.

        Raises:
          InvalidValueError: none is left, or nothing was written about a task's passage.
        """
        found = []
        for task in tasks:
            if task.id not in self.about:
                raise InvalidValueError(
                    f"there are no written questions about the passage {task.title!r} ({task.id}); they are written "
                    "for the training passages of config.rounds rounds of config.contexts each"
                )
            if questions := self.about[task.id].questions:
                found.append(dataclasses.replace(task, questions=questions))
        if tasks and not found:
            raise InvalidValueError(
                f"config.domain.questions is 'written', and the model wrote no usable question about any of the "
                f"{len(tasks)} passages of a round; raise config.domain.written.samples, or choose another "
                "config.domain.written.prompt"
            )
        return found

    def to_json(self) -> dict[str, Any]:
        """Returns the contents of `questions.json`: counts over all passages, and the questions about each."""
        dropped: collections.Counter[str] = collections.Counter(dict.fromkeys(DROPPED, 0))
        for each in self.about.values():
            dropped.update(each.dropped)
        return {
            "counts": {
                "passages": len(self.about),
                "passages without a question": sum(not each.questions for each in self.about.values()),
                "questions": sum(len(each.questions) for each in self.about.values()),
                "dropped": dict(dropped),
            },
            "passages": [
                {
                    "task": each.task.id,
                    "title": each.task.title,
                    "context": each.task.context,
                    "written": [{"question": one.question, "answer": one.answers[0]} for one in each.questions],
                    "given": [{"question": one.question, "answers": list(one.answers)} for one in each.task.questions],
                    "dropped": dict(each.dropped),
                }
                for each in self.about.values()
            ],
        }


@dataclasses.dataclass(frozen=True)
class QuestionWriter:
    """Writes questions about passages and answers them.

    Attributes:
      rounds: rounds whose training passages are asked about.
      contexts: passages of each.
      prompts: the prompts for questions.
      samples: texts sampled for each passage, each of which may have several questions.
      temperature: of their sampling; answers are greedy.
      top_p: of their sampling.
      most: the most questions kept about a passage, the first ones; `None` for all.
      seed: seeds the sampling.
      answer_style: the answer prompt, see `answer_prompt`; it has the passage.
      answer_tokens: the most tokens of an answer.
      answer_stop: strings that end an answer.
    """

    rounds: int
    contexts: int
    prompts: EditPrompts
    samples: int
    temperature: float
    top_p: float
    most: int | None
    seed: int
    answer_style: str
    answer_tokens: int
    answer_stop: tuple[str, ...]

    @classmethod
    def of(cls, config: Any, prompts: EditPrompts, answer_style: str) -> QuestionWriter:
        """Returns the writer that a resolved config describes.

        Args:
          config: the experiment.
          prompts: the prompts for questions.
          answer_style: the answer prompt, see `answer_prompt`.

        Raises:
          UserError: a field of `config.domain.written` is out of range, nothing would ask the questions, or the answer
            prompt has no place for the passage.
        """
        fields = config.domain.written
        for name, least in (("samples", 1), ("most", 0), ("temperature", 0), ("max_new_tokens", 1)):
            if not fields[name] >= least:
                raise InvalidValueError(f"config.domain.written.{name} is {fields[name]}; it must be at least {least}")
        if not 0 < fields.top_p <= 1:
            raise InvalidValueError(f"config.domain.written.top_p is {fields.top_p}; it must be above 0 and at most 1")
        if config.get("reward", "inner") == "proxy":
            raise InvalidValueError(
                "config.domain.questions is 'written', and config.reward is 'proxy', which asks no questions; set the "
                "first to 'given', or the second to 'inner' or 'both'"
            )
        answer_prompt("", style=answer_style, context="a passage")  # raises where it has no place for one
        return cls(
            rounds=config.rounds,
            contexts=config.contexts,
            prompts=prompts,
            samples=fields.samples,
            temperature=fields.temperature,
            top_p=fields.top_p,
            most=fields.most or None,
            seed=config.seed,
            answer_style=answer_style,
            answer_tokens=config.answer.max_new_tokens,
            answer_stop=tuple(config.answer.stop),
        )

    def write(self, policy: Policy, tasks: Sequence[Task], phase: Phase) -> Written:
        """Returns the questions that a policy writes about passages.

        All texts are sampled in one `generate`, and all questions answered in another. A text's random key is derived
        from the seed, the task's id and the sample's index. Both are looked up in
        `selfadapt.checkpoint.units.current()`.
        """
        if not tasks:
            return Written({})
        stored = units.current()
        with phase("write questions", len(tasks)) as advance:
            texts = stored.once("texts", functools.partial(self._texts, policy, tasks))
            advance(len(tasks))
        found = [self._asked(policy, task, own) for task, own in zip(tasks, texts, strict=True)]
        pairs = [(task, asked) for task, (own, _) in zip(tasks, found, strict=True) for asked in own]
        with phase("answer questions", len(pairs)) as advance:
            answers = iter(stored.once("answers", functools.partial(self._answers, policy, pairs)))
            advance(len(pairs))
        about = {}
        for task, (own, dropped) in zip(tasks, found, strict=True):
            golds = [
                (asked, gold) for asked, gold in zip(own, itertools.islice(answers, len(own)), strict=True) if gold
            ]
            questions = tuple(Question(asked, (gold,), f"written {i}") for i, (asked, gold) in enumerate(golds))
            about[task.id] = About(task, questions, dropped | {"unanswered": len(own) - len(golds)})
        return Written(about)

    def _texts(self, policy: Policy, tasks: Sequence[Task]) -> list[list[str]]:
        return _continued(
            policy,
            [self.prompts.write(task) for task in tasks],
            max_new_tokens=self.prompts.edit_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            seed=self.seed,
            num_samples=self.samples,
            ids=[f"questions {task.id}" for task in tasks],
        )

    def _asked(self, policy: Policy, task: Task, texts: Sequence[str]) -> tuple[list[str], dict[str, int]]:
        """Returns the questions to answer about a passage, and how many of its texts' lines and questions are dropped.

        Questions that differ in case, punctuation, articles or spaces alone are duplicates.
        """
        parsed = [parse_questions(text) for text in texts]
        every = [question for questions, _ in parsed for question in questions]
        different: dict[str, str] = {}
        for question in every:
            different.setdefault(normalize_answer(question), question)
        limit = policy.model.config.max_position_embeddings - self.answer_tokens
        short = [
            question
            for question in different.values()
            if fits(policy.model.tokenizer, self._answer_prompt(task, question), limit)
        ]
        kept = short[: self.most]
        counts = (
            sum(without for _, without in parsed),
            len(every) - len(different),
            len(different) - len(short),
            len(short) - len(kept),
        )
        return kept, dict(zip(DROPPED, counts, strict=False))

    def _answer_prompt(self, task: Task, question: str) -> str:
        return answer_prompt(question, title=task.title, style=self.answer_style, context=task.context)

    def _answers(self, policy: Policy, pairs: Sequence[tuple[Task, str]]) -> list[str]:
        """Returns the first line of the answer to each question; "" if it is blank."""
        if not pairs:
            return []
        asked = [self._answer_prompt(task, question) for task, question in pairs]
        texts = _continued(policy, asked, max_new_tokens=self.answer_tokens, stop=self.answer_stop)
        parsed = [parse_answer(text) if self.answer_style == "cot" else text for text in texts]
        return [text.strip().partition("\n")[0].strip() for text in parsed]


def _continued(policy: Policy, prompts: Sequence[str], **options: Any) -> list[Any]:
    """Returns what `generate` returns for a policy, whose adapter is used if it has one."""
    if policy.adapter is None:
        return generate(policy.model, prompts, **options)
    return generate(policy.model, [prompts], adapters=policy.adapter, **options)[0]
