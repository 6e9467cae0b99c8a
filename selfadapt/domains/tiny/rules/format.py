r"""How the model of the world of rules reads and writes, with one token per word, sign or part of a statement.

The prompt for an answer is the instruction and the question:

    apple = K
    plum = C
    ? apple 12 ->

The prompt for an edit is the instruction, and each question of the summary with the answer and the truth:

    plum = C
    ? apple 12 -> apple12 | K12
    ? plum 30 -> C30 | C30
    rewrite:

"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from selfadapt.domains.instructions.environment import Environment, Evaluated
from selfadapt.domains.tiny.rules.families import COLUMNS, FAMILIES, TABLES, THINGS, VERBS
from selfadapt.errors import InvalidEdit
from selfadapt.models.tiny_tokenizer import build_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

ASK, ANSWER, TRUTH, REWRITE, END = "? ", " -> ", " | ", "rewrite:\n", "\n"
LINES = 12  # of an instruction, at most
_STATEMENT = [*(f"SELECT {what} FROM " for what in VERBS.values()), " WHERE "]


class LineFormat:
    """Instructions of lines, each a piece of a rule (`selfadapt.domains.instructions.environment.EditStyle`)."""

    def edit_prompt(self, environment: Environment, instruction: str, summary: Sequence[Evaluated]) -> str:
        """Returns the instruction and the summary, as the module's docstring shows."""
        return edit_prompt(instruction, [(line.problem.question, line.answer, line.problem.truth) for line in summary])

    def parse_edit(self, text: str) -> str:
        """Returns the text without empty lines.

        Raises:
          InvalidEdit: it has no lines, or more than `LINES`.
        """
        lines = [line for line in map(str.strip, text.split("\n")) if line]
        if not lines:
            raise InvalidEdit("the instruction is empty")
        if len(lines) > LINES:
            raise InvalidEdit(f"the instruction has {len(lines)} lines, over {LINES}")
        return "\n".join(lines)


def answer_prompt(instruction: str, question: str) -> str:
    """Returns the text that the model continues with its answer and a line break."""
    return f"{_lines(instruction)}{ASK}{question}{ANSWER}"


def edit_prompt(instruction: str, summary: Iterable[tuple[str, str, str]]) -> str:
    """Returns the text that the policy continues with an instruction, given questions, answers and truths."""
    # An answer is any text, and each line of a summary is one.
    shown = [f"{ASK}{asked}{ANSWER}{' '.join(answer.split())}{TRUTH}{truth}\n" for asked, answer, truth in summary]
    return f"{_lines(instruction)}{''.join(shown)}{REWRITE}"


def _lines(instruction: str) -> str:
    return f"{instruction}\n" if instruction else ""


def make_tokenizer(max_length: int) -> PreTrainedTokenizerFast:
    """Returns the tokenizer: one token per word, space, digit, sign, name of a table or column, and fixed part.

    A space is a token, so that a word is the same token wherever it stands.

    Args:
      max_length: what its files give as the model's longest input, in tokens.
    """
    words = [*VERBS, *(word for thing in THINGS.values() for word in thing.kinds)]
    for family in FAMILIES.values():
        words += [*family.values, *family.defaults.values(), *(v for some in family.values.values() for v in some)]
    pieces = (" ", " = ", ASK, ANSWER, TRUTH, REWRITE, "!=", *_STATEMENT, *TABLES, *COLUMNS)
    return build_tokenizer(words, pieces=pieces, max_length=max_length)
