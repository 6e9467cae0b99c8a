"""TextGrad (arXiv 2406.07496) on instructions: a critic reads failures, and a rewrite is kept if it is better.

The procedure of LSE's comparison (arXiv 2603.18620). The package `textgrad` is not used: it needs the clients of many
services, and writes a log file into the working directory when it is imported.

Each round the current instruction of each environment answers problems of the pool. The editor criticizes some of the
failures, then rewrites the instruction, and the rewrite becomes the current one if it scores higher on the holdout. An
editor with a style of its own, which cannot criticize, rewrites after the summary alone.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from selfadapt.checkpoint import units
from selfadapt.domains.instructions import Environment, Evaluated, Instructions, Problem, Writer
from selfadapt.domains.instructions.growing import INVALID, SCORES
from selfadapt.domains.instructions.nodes import (
    Asked,
    answered,
    continued,
    draw_batch,
    summary_from_json,
    summary_to_json,
)
from selfadapt.domains.instructions.style import TaggedStyle, shown
from selfadapt.errors import InvalidEdit, InvalidValueError
from selfadapt.protocols.evolve.output import ANSWERS
from selfadapt.search import Node, Tree
from selfadapt.telemetry.progress import Phase
from selfadapt.templates import chat_text, extract_tag

TAG = "IMPROVED_VARIABLE"

CRITIC = """A language model works with these instructions:
<instructions>
{instruction}
</instructions>

It failed on these problems:

{failures}

Criticize the instructions. For each failure say which part of them led to it, or what they do not say. Then say what \
should change so that the model does better on problems of this kind, also on others than these. Do not write new \
instructions."""

REWRITE = """You improve the instructions that a language model works with. They are now:
<instructions>
{instruction}
</instructions>

A critic has read answers that failed with them, and says:
<criticism>
{criticism}
</criticism>

Rewrite the instructions accordingly.
{constraints}

Write the complete new instructions between <{tag}> and </{tag}>, and nothing after them."""

_FORM = "- Keep what the instructions say about the form of an answer."
_NO_EXAMPLES = "- Do not put examples of problems or answers into them."


@dataclasses.dataclass(frozen=True)
class Options:
    """The fields of `config.protocol.textgrad`.

    Attributes:
      max_failures: the most failures that the critic reads.
      max_example_chars: the most characters of one.
      max_instruction_chars: the most characters of an instruction.
      forbid_fewshot: whether the rewrite is told to write no examples.
      revert_on_worse_holdout: whether a rewrite that does not score higher is dropped; else each is kept.
    """

    max_failures: int
    max_example_chars: int
    max_instruction_chars: int
    forbid_fewshot: bool
    revert_on_worse_holdout: bool

    def __post_init__(self):
        for name in ("max_failures", "max_example_chars", "max_instruction_chars"):
            if getattr(self, name) < 1:
                raise InvalidValueError(
                    f"config.protocol.textgrad.{name} is {getattr(self, name)}; it must be at least 1"
                )


def descend(
    editor: Writer,
    domain: Instructions,
    student: Writer,
    environments: Sequence[Environment],
    options: Options,
    phase: Phase,
) -> list[Tree]:
    """Returns the instructions of each environment as a tree, in which a rewrite is a child of what was current.

    Args:
      editor: criticizes and rewrites.
      domain: its style and limits; its growth has the rounds, the problems of a batch, and the sampling.
      student: answers.
      environments: the environments, with different ids; all are worked on in one batch.
      options: what the critic reads and which rewrites are kept.
      phase: wraps the rounds, for a progress display.
    """
    with phase("rewrite", domain.growth.rounds) as advance:
        run = _Descent(editor, domain, student, environments, options)
        run.start()
        for number in range(1, domain.growth.rounds + 1):
            run.round(number)
            advance(1)
    return run.trees


class _Descent:
    """The state of all environments: their trees, and the current nodes."""

    def __init__(
        self,
        editor: Writer,
        domain: Instructions,
        student: Writer,
        environments: Sequence[Environment],
        options: Options,
    ):
        self._editor, self._domain, self._student = editor, domain, student
        self._environments, self._options = environments, options
        self.trees = [Tree(environment.seed_instruction) for environment in environments]
        self._current = [tree.root for tree in self.trees]
        for tree in self.trees:
            tree.extra |= {"method": "textgrad", ANSWERS: 0}

    def start(self) -> None:
        """Scores the seeds."""
        self._score(0, dict(enumerate(self._current)))

    def round(self, number: int) -> None:
        """Rewrites the current instruction of each environment that fails on a problem of its batch, and scores it."""
        growth = self._domain.growth
        batches = {
            place: draw_batch(environment, growth.batch, growth.seed, number)
            for place, environment in enumerate(self._environments)
        }
        current = {place: node.instructions for place, node in enumerate(self._current)}
        summaries = self._answers(f"batch {number}", current, batches)
        failing = {place: lines for place, lines in summaries.items() if any(map(_failed, lines))}
        for place in failing:
            self._current[place].visits += 1
            self.trees[place].total_selections += 1
        written = {}
        for place, text in self._rewrites(number, failing).items():
            try:
                instruction = self._parsed(text)
                self._domain.room.check_answers(self._environments[place], instruction, self._problems(place))
            except InvalidEdit as error:
                self._drop(place, number, text, error)
            else:
                written[place] = self.trees[place].add_child(
                    self._current[place], instruction, round_idx=number, conversation=text
                )
        self._score(number, written)
        for place, node in written.items():
            parent = self._current[place]
            assert node.performance is not None and parent.performance is not None
            if not self._options.revert_on_worse_holdout or node.performance > parent.performance:
                self._current[place] = node

    def _score(self, number: int, nodes: Mapping[int, Node]) -> None:
        """Scores a node of each of some environments on the holdout."""
        instructions = {place: node.instructions for place, node in nodes.items()}
        holdouts = {place: self._environments[place].holdout for place in nodes}
        for place, lines in self._answers(f"holdout {number}", instructions, holdouts).items():
            rewards = [line.verdict.reward for line in lines]
            nodes[place].extra[SCORES] = rewards
            self.trees[place].set_performance(nodes[place], sum(rewards) / len(rewards))

    def _rewrites(self, number: int, summaries: Mapping[int, Sequence[Evaluated]]) -> dict[int, str]:
        """Returns what the editor writes after summaries with failures."""
        style, current = self._domain.style, self._current
        if not isinstance(style, TaggedStyle):
            prompts = {
                place: style.edit_prompt(self._environments[place], current[place].instructions, lines)
                for place, lines in summaries.items()
            }
            return self._written("rewrite", number, prompts)
        options = self._options
        limit = f"- They have at most {options.max_instruction_chars} characters."
        constraints = "\n".join([_FORM, *([_NO_EXAMPLES] if options.forbid_fewshot else []), limit])
        prompts = {
            place: CRITIC.format(instruction=current[place].instructions, failures=_shown(lines, options))
            for place, lines in summaries.items()
        }
        prompts = {
            place: REWRITE.format(
                instruction=current[place].instructions, criticism=text.strip(), constraints=constraints, tag=TAG
            )
            for place, text in self._written("critic", number, prompts).items()
        }
        return self._written("rewrite", number, prompts)

    def _written(self, role: str, number: int, prompts: Mapping[int, str]) -> dict[int, str]:
        """Returns what the editor writes after prompts, without those that are too long for it."""
        domain, growth = self._domain, self._domain.growth
        fitting = {}
        for place, prompt in prompts.items():
            if isinstance(domain.style, TaggedStyle) and domain.style.tokenizer is not None:
                prompt = chat_text(domain.style.tokenizer, [{"role": "user", "content": prompt}])
            try:
                domain.room.check_edit(prompt)
            except InvalidEdit as error:
                self._drop(place, number, "", error)
            else:
                fitting[place] = prompt

        def compute() -> list[list[str]]:
            return continued(
                self._editor,
                list(fitting.values()),
                max_new_tokens=domain.room.edit_tokens,
                temperature=growth.temperature,
                top_p=growth.top_p,
                seed=growth.seed,
                num_samples=1,
                ids=[f"textgrad {role} {self._environments[place].id} {number}" for place in fitting],
            )

        texts = units.current().once(f"{role} {number}", compute) if fitting else []
        return {place: text for place, (text,) in zip(fitting, texts, strict=True)}

    def _parsed(self, text: str) -> str:
        """Returns the instruction of a rewrite.

        Raises:
          InvalidEdit: it has none, or one that is too long.
        """
        if not isinstance(self._domain.style, TaggedStyle):
            return self._domain.style.parse_edit(text)
        found, most = extract_tag(text, TAG), self._options.max_instruction_chars
        if not found:
            raise InvalidEdit(f"there is no instruction between <{TAG}> and </{TAG}>")
        if len(found) > most:
            raise InvalidEdit(f"the instruction has more than {most} characters")
        return found

    def _answers(
        self, name: str, instructions: Mapping[int, str], problems: Mapping[int, Sequence[Problem]]
    ) -> dict[int, Sequence[Evaluated]]:
        """Returns the answers of some environments to problems, each with its instruction."""
        environments = {place: self._environments[place] for place in instructions}

        def compute() -> list[list[dict[str, Any]]]:
            asked = [Asked(environments[place], instructions[place], problems[place]) for place in instructions]
            options: dict[str, Any] = dict(
                max_new_tokens=self._domain.room.answer_tokens, stop=self._domain.growth.stop
            )
            return [summary_to_json(lines) for lines in answered(self._student, asked, **options)]

        found = units.current().once(name, compute) if instructions else []
        for place in instructions:
            self.trees[place].extra[ANSWERS] += len(problems[place])
        return {
            place: summary_from_json(environments[place], lines)
            for place, lines in zip(instructions, found, strict=True)
        }

    def _problems(self, place: int) -> list[Problem]:
        environment = self._environments[place]
        return [*environment.holdout, *environment.pool]

    def _drop(self, place: int, number: int, text: str, error: InvalidEdit) -> None:
        record = {"round_idx": number, "text": text, "reason": str(error)}
        self._current[place].extra.setdefault(INVALID, []).append(record)


def _failed(line: Evaluated) -> bool:
    return line.verdict.reward < 1


def diverse(failures: Sequence[Evaluated], count: int) -> list[Evaluated]:
    """Returns some failures, in their order: one of each error text, then a second one of each, and so on."""
    seen: collections.Counter[str] = collections.Counter()
    turns = []
    for place, line in enumerate(failures):
        turns.append((seen[line.verdict.error], place))
        seen[line.verdict.error] += 1
    return [failures[place] for place in sorted(place for _, place in sorted(turns)[:count])]


def _shown(summary: Sequence[Evaluated], options: Options) -> str:
    """Returns failures of a summary as the critic reads them."""
    failures = diverse([line for line in summary if _failed(line)], options.max_failures)
    texts = (shown(number, line) for number, line in enumerate(failures, start=1))
    return "\n\n".join(text[: options.max_example_chars] for text in texts)
