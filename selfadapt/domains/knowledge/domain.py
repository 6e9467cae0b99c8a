"""Knowledge incorporation: the model reads a passage, writes an edit, trains on it, answers without the passage.

SEAL's first domain (arXiv 2506.10943, section 4.1 and appendix B): passages and questions from any source, edits
turned into training sequences by SEAL's rules, answers graded.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from selfadapt.domains.base import Applied
from selfadapt.domains.common import count_tokens, fits, inner_update, surely_fits
from selfadapt.domains.knowledge import prompts
from selfadapt.domains.knowledge.judges import make_grader, make_rubric
from selfadapt.domains.knowledge.questions import FILE, ORIGINS, QuestionWriter, Written
from selfadapt.domains.knowledge.sequences import SPLITS, after_marker, training_sequences
from selfadapt.domains.knowledge.sources import TaskSource, make_source
from selfadapt.errors import InvalidEdit, UserError
from selfadapt.graders import GradeItem, Grader, Ratings, Rubric
from selfadapt.models.model import Model
from selfadapt.models.policy import State
from selfadapt.telemetry.progress import Phase
from selfadapt.templates import SUFFIX, chat_text
from selfadapt.types import ContextEdit, Task, TokenSequence, Update

BASELINES = ("passage", "unchanged")
PADDINGS = ("none", "seal")
SEAL_LENGTH = 2048  # tokens; SEAL pads every training sequence to this length
PASSAGE_IN_PROMPT = "passage in prompt"  # the row's name


@dataclasses.dataclass(frozen=True)
class EditPrompts:
    """Writes the prompts for edits, or for questions.

    Attributes:
      policy: the model that writes edits, for its tokenizer and context.
      template: key or text of the prompt; see `prompts.edit_prompt`.
      chat: whether the prompt is a chat, for instruct models.
      edit_tokens: the most tokens of an edit; prompt and edit share the policy's context.
      group: the config's group of fields that sets it.
    """

    policy: Model
    template: str
    chat: bool
    edit_tokens: int
    group: str = "sampling"

    def write(self, task: Task) -> str:
        """Returns the prompt for an edit of a passage."""
        if not self.chat:
            return prompts.edit_prompt(self.template, title=task.title, context=task.context)
        messages = prompts.edit_messages(self.template, title=task.title, context=task.context)
        return chat_text(self.policy.tokenizer, messages)

    def fits(self, task: Task) -> bool:
        """Returns whether the prompt for a passage and an edit fit into the policy's context."""
        return fits(self.policy.tokenizer, self.write(task), self._limit)

    def check(self, task: Task, source: str) -> None:
        """Raises UserError if the prompt for a passage does not fit; the message names the source."""
        if not self.fits(task):
            raise UserError(
                f"{source}: the passage {task.title!r} ({task.id}) makes an edit prompt of {self._tokens(task)} "
                f"tokens, and with config.{self.group}.max_new_tokens={self.edit_tokens} the model's context of "
                f"{self.policy.config.max_position_embeddings} leaves {self._limit}; set config.data.skip_long=True to "
                f"leave such passages out, or lower config.{self.group}.max_new_tokens"
            )

    @property
    def _limit(self) -> int:
        return self.policy.config.max_position_embeddings - self.edit_tokens

    def _tokens(self, task: Task) -> int:
        return count_tokens(self.policy.tokenizer, self.write(task))


@dataclasses.dataclass(frozen=True)
class Knowledge:
    """The domain; `make` builds it from a config.

    Attributes:
      student: the model to adapt, for its tokenizer and context.
      source: supplies passages and questions.
      edit_prompts: writes the prompts for edits.
      answer_prompt: style or template of the answer prompt; see `prompts.answer_prompt`.
      split: how an edit is cut into segments, "lines" or "document".
      max_segments: the most segments of an edit, `None` for all.
      padding: "seal" pads every sequence with trained end-of-sequence tokens to 2048, as SEAL's code does.
      update: the inner update without its sequences.
      grader: grades answers.
      passage_is_baseline: whether edits are compared with the passage alone, or with no adaptation.
      marker: what the line begins with after which an edit is trained on; "" for the whole edit.
      answer_tokens: the most tokens of an answer; with a passage in the prompt, they share the student's context.
      passage_in_prompt: whether the evaluation has a row of the student that reads the passage with each question.
      rubric: rates edits, where rewards are made of ratings.
      writer: writes the questions of the rounds, where they are not given.
      written: the questions that it wrote; `None` before `prepare`.
    """

    student: Model
    source: TaskSource
    edit_prompts: EditPrompts
    answer_prompt: str
    split: str
    max_segments: int | None
    padding: str
    update: Update
    grader: Grader
    passage_is_baseline: bool = True
    marker: str = ""
    answer_tokens: int = 64
    passage_in_prompt: bool = False
    rubric: Rubric | None = None
    writer: QuestionWriter | None = None
    written: Written | None = None

    def tasks(self, split: str, count: int, round: int = 0) -> list[Task]:
        """Returns passages: new ones each round for "train", always the same for "heldout".

        Where questions are written, those to train on have these once `prepare` was called, and a passage without any
        is left out.

        Raises:
          UserError: there are too few passages, or one does not fit into the policy's context.
        """
        tasks = self.source.tasks(split, count, round)
        for task in tasks:
            self.edit_prompts.check(task, self.source.name)
        if self.writer is None or split != "train":
            return tasks
        for task in tasks:
            self.writer.prompts.check(task, self.source.name)
        return tasks if self.written is None else self.written.ask(tasks)

    def prepare(self, state: State, phase: Phase) -> Knowledge:
        """Returns the domain with the questions that the policy writes about the training passages of all rounds.

        Raises:
          InvalidValueError: it wrote none about all passages of a round.
        """
        if self.writer is None:
            return self
        rounds = [self.tasks("train", self.writer.contexts, number) for number in range(self.writer.rounds)]
        distinct = {task.id: task for tasks in rounds for task in tasks}
        written = self.writer.write(state.policy, list(distinct.values()), phase)
        for tasks in rounds:
            written.ask(tasks)  # raises now
        return dataclasses.replace(self, written=written)

    def artifacts(self) -> Mapping[str, Any]:
        """Returns the written questions, `questions.json`, if there are any."""
        return {} if self.written is None else {FILE: self.written.to_json()}

    def edit_prompt(self, task: Task) -> str:
        """Returns the prompt for an edit of a passage."""
        return self.edit_prompts.write(task)

    def _trained(self, text: str) -> str:
        """Returns the part of an edit that is trained on; raises InvalidEdit if it has none."""
        found = after_marker(text, self.marker) if self.marker else text
        if found is None:
            raise InvalidEdit(f"no line of the edit begins with {self.marker!r}")
        return found

    def apply(self, task: Task, text: str | None) -> Applied:
        """Returns the update on an edit's sequences and the passage; without an edit, on the passage alone.

        Raises:
          InvalidEdit: the edit lacks the marker of the prompt.
        """
        if text is None:
            sequences = [f"{task.title}\n{task.context}"]
        else:
            sequences = training_sequences(
                self._trained(text),
                title=task.title,
                context=task.context,
                split=self.split,
                max_segments=self.max_segments,
            )
        return self.update.replace(sequences=[self._fitted(sequence) for sequence in sequences])

    def _fitted(self, text: str) -> str | TokenSequence:
        """Returns a sequence, cut to the student's context where it is longer, and padded if asked to."""
        limit = self.student.config.max_position_embeddings
        if self.padding == "none" and surely_fits(text, limit):
            return text
        limit = min(limit, SEAL_LENGTH) if self.padding == "seal" else limit
        ids = tuple(self.student.tokenizer(text, verbose=False)["input_ids"][:limit])
        if self.padding == "none":
            return TokenSequence(ids)
        pads = limit - len(ids)
        return TokenSequence(
            ids + (self.student.config.eos_token_ids[0],) * pads, attention=(True,) * len(ids) + (False,) * pads
        )

    def unchanged(self, task: Task) -> Applied:
        """Returns the application that leaves the model as it is, with nothing in its context."""
        del task
        return ContextEdit("")

    def baseline(self, task: Task) -> Applied:
        """Returns the update on the passage alone, or no change."""
        return self.apply(task, None) if self.passage_is_baseline else self.unchanged(task)

    def references(self, tasks: Sequence[Task]) -> dict[str, list[Applied]]:
        """Returns the row of reading comprehension, "passage in prompt", if it is asked for.

        Raises:
          UserError: a passage with its questions does not fit into the student's context, or the template of the answer
            prompt has no place for it.
        """
        if not self.passage_in_prompt:
            return {}
        limit = self.student.config.max_position_embeddings - self.answer_tokens
        for task in tasks:
            for prompt in self.questions(task, task.context):
                if not fits(self.student.tokenizer, prompt, limit):
                    raise UserError(
                        f"config.domain.passage_in_prompt is True, and the passage {task.title!r} ({task.id}) with a "
                        f"question makes a prompt of {count_tokens(self.student.tokenizer, prompt)} tokens; with "
                        f"config.answer.max_new_tokens={self.answer_tokens} the student's context leaves {limit}. "
                        "Lower config.answer.max_new_tokens, leave the passage out, or set the field to False"
                    )
        return {PASSAGE_IN_PROMPT: [ContextEdit(task.context) for task in tasks]}

    def questions(self, task: Task, context: str) -> list[str]:
        """Returns the answer prompts; `context`, if there is one, is a text to answer from."""
        return [
            prompts.answer_prompt(question.question, title=task.title, style=self.answer_prompt, context=context)
            for question in task.questions
        ]

    def grade(self, tasks: Sequence[Task], answers: Sequence[Sequence[str]]) -> list[list[float]]:
        """Returns a verdict for each answer; the grader gets all of them at once.

        After the prompt "cot" it gets what is between the answer tags, and "", which is wrong, if there are none.
        """
        parsed = prompts.parse_answer if self.answer_prompt == "cot" else str
        items = [
            GradeItem(question.question, question.answers, parsed(answer))
            for task, texts in zip(tasks, answers, strict=True)
            for question, answer in zip(task.questions, texts, strict=True)
        ]
        verdicts = iter(self.grader.grade(items))
        return [[next(verdicts) for _ in texts] for texts in answers]

    def rate(self, tasks: Sequence[Task], texts: Sequence[str]) -> list[Ratings]:
        """Returns the ratings of the part of each edit that is trained on.

        Raises:
          InvalidEdit: an edit has no such part.
          UserError: there is no rubric.
        """
        if self.rubric is None:
            raise UserError("config.reward is 'inner', for which no rubric was made; set it to 'proxy' or 'both'")
        return self.rubric.rate(tasks, [self._trained(text) for text in texts])

    def oracle(self, task: Task) -> str | None:
        """Returns the edit that a perfect author would write."""
        text = self.source.oracle(task)
        return f"{self.marker}\n{text}" if self.marker and text is not None else text

    def describe(self, task: Task, text: str) -> dict[str, int]:
        """Returns the number of lines of each kind that are trained on; empty if the source does not classify them."""
        try:
            return self.source.describe(task, self._trained(text))
        except InvalidEdit:
            return {}


def make(config: Any, policy: Model, student: Model | None = None, *, source: TaskSource | None = None) -> Knowledge:
    """Makes the domain from an experiment.

    Args:
      config: the resolved experiment; `selfadapt/defaults.py` explains its fields.
      policy: the model that writes edits.
      student: the model that is adapted and answers questions; the policy by default.
      source: passages and questions of your own, in place of what `config.data` describes.

    Raises:
      UserError: a field's value cannot be used, or the data cannot be used with these models.
    """
    student = policy if student is None else student
    fields = config.domain
    choices = {"split": SPLITS, "baseline": BASELINES, "padding": PADDINGS}
    if "questions" in fields:  # an evaluation has no training passages to ask about
        choices["questions"] = ORIGINS
    for field, allowed in choices.items():
        if fields[field] not in allowed:
            raise UserError(f"config.domain.{field} is {fields[field]!r}; it must be one of {', '.join(allowed)}")
    if fields.max_segments < 0:
        raise UserError(f"config.domain.max_segments is {fields.max_segments}; it must be at least 0, which means all")
    if fields.padding == "seal" and not student.config.eos_token_ids:
        raise UserError("config.domain.padding is 'seal', and the model has no end-of-sequence token to pad with")
    if fields.chat and not getattr(policy.tokenizer, "chat_template", None):
        raise UserError(
            f"config.domain.chat is True, and the tokenizer of {config.model} has no chat template; set it to "
            "False, or use an instruct model"
        )
    answer_prompt = fields.answer_prompt
    template = _template(fields.prompt, "config.domain.prompt")
    if answer_prompt.endswith(SUFFIX):
        answer_prompt = prompts.load_answer_template(answer_prompt, field="config.domain.answer_prompt")
    prompts.answer_prompt("", style=answer_prompt)
    if answer_prompt == "cot" and any("\n" in stop for stop in config.answer.stop):
        raise UserError(
            "config.domain.answer_prompt is 'cot', and config.answer.stop has a line break, which would end the "
            "thoughts before the answer; set config.answer.stop=() and config.answer.max_new_tokens to some hundreds"
        )
    edit_prompts = EditPrompts(policy, template, fields.chat, config.sampling.max_new_tokens)
    update = inner_update(config, student.config)
    writer = None
    if fields.get("questions") == "written":
        own = fields.written
        asking = _template(own.prompt, "config.domain.written.prompt")
        asked = EditPrompts(policy, asking, fields.chat, own.max_new_tokens, "domain.written")
        writer = QuestionWriter.of(config, asked, answer_prompt)
    if source is None:
        used = [edit_prompts] if writer is None else [edit_prompts, writer.prompts]

        def keep(task: Task) -> bool:
            if not config.data.skip_long:
                for each in used:
                    each.check(task, config.data.path)
            return all(each.fits(task) for each in used)

        source = make_source(config, keep)
    return Knowledge(
        student=student,
        source=source,
        edit_prompts=edit_prompts,
        answer_prompt=answer_prompt,
        split=fields.split,
        max_segments=fields.max_segments or None,
        padding=fields.padding,
        update=update,
        grader=make_grader(config, policy, default=source.grader),
        passage_is_baseline=fields.baseline == "passage",
        marker=fields.keep_after or prompts.edit_marker(template),
        answer_tokens=config.answer.max_new_tokens,
        passage_in_prompt=fields.passage_in_prompt,
        rubric=None if config.get("reward", "inner") == "inner" else make_rubric(config, policy, source),
        writer=writer,
    )


def _template(given: str, field: str) -> str:
    """Returns a key of `prompts.PROMPTS`, or the text of a template file; raises UserError if it is neither."""
    template = prompts.load_edit_template(given, field=field) if given.endswith(SUFFIX) else given
    prompts.edit_prompt(template, title="", context="")  # raises for an unknown key
    return template
