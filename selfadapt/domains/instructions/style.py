"""How an instruct model rewrites an instruction: a prompt with the summary, and the answer between tags."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from selfadapt.domains.instructions.environment import Environment, Evaluated
from selfadapt.errors import InvalidEdit
from selfadapt.templates import chat_text, extract_tag

TAG = "prompt"
FIELDS = ("instruction", "count", "correct", "summary")
SHORTEST = 10  # characters of an instruction, as in LSE's code
ERROR = 500  # characters of an error that are shown, as in LSE's code

REWRITE = """You improve the instructions that a language model works with. The model stays as it is: only its \
instructions change, and they should help with new problems of the same kind.

The instructions now:
<current>
{instruction}
</current>

With them the model answered {count} problems, {correct} of them correctly.

{summary}

Find out what the wrong answers have in common and what the instructions should say about it. Write rules that hold \
for many problems, and nothing that is about one of the problems above. Keep what the instructions say about the form \
of an answer. Think first. Then write the complete new instructions between <prompt> and </prompt>."""


@dataclasses.dataclass(frozen=True)
class TaggedStyle:
    """Instructions between `<prompt>` and `</prompt>`, of which the last pair counts.

    Attributes:
      template: the prompt, with `FIELDS` as its placeholders.
      tokenizer: writes the prompt as a chat; `None` for plain text.
    """

    template: str = REWRITE
    tokenizer: Any = None

    def edit_prompt(self, environment: Environment, instruction: str, summary: Sequence[Evaluated]) -> str:
        """Returns the prompt: the instruction, and of each problem the question, the answer, the truth and errors."""
        del environment
        text = self.template.format(
            instruction=instruction,
            count=len(summary),
            correct=sum(line.verdict.reward >= 1 for line in summary),
            summary="\n\n".join(shown(number, line) for number, line in enumerate(summary, start=1)),
        )
        return text if self.tokenizer is None else chat_text(self.tokenizer, [{"role": "user", "content": text}])

    def parse_edit(self, text: str) -> str:
        """Returns what is between the tags.

        Raises:
          InvalidEdit: there are no tags, or fewer than `SHORTEST` characters between them.
        """
        found = extract_tag(text, TAG)
        if found is None:
            raise InvalidEdit(f"there is no instruction between <{TAG}> and </{TAG}>")
        if len(found) < SHORTEST:
            raise InvalidEdit(f"the instruction has fewer than {SHORTEST} characters")
        return found


def shown(number: int, line: Evaluated) -> str:
    """Returns a line of a summary as text: the question, the answer, the truth and the error."""
    verdict = "correct" if line.verdict.reward >= 1 else "wrong"
    parts = [
        f"Problem {number} ({verdict})\n{line.problem.question}",
        f"Answer:\n{line.answer.strip()}",
        f"Right answer:\n{line.problem.truth}",
    ]
    if line.verdict.error:
        parts.append(f"Error:\n{line.verdict.error[:ERROR]}")
    return "\n".join(parts)
