"""How tasks, grids and directives are written as text: the protocol, and the format for Hugging Face models."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol

from selfadapt.domains.arc.directive import Directive, parse_directive, render_directive
from selfadapt.domains.arc.grids import Grid, parse_grid, render
from selfadapt.domains.arc.tasks import ArcTask, Pair
from selfadapt.templates import chat_text

FIELDS = ("examples",)  # placeholders of an edit prompt
END = "\n\n"  # of an answer without a chat template; config.answer.stop has it too

RULE = "One rule turns every input grid into its output grid. Colours are digits."
DIRECTIVE = """\
A model is going to be trained on these solved examples of a puzzle before it gets a new input. Decide how.

{examples}Copies of the examples that it can be trained on as well:
- use_basic_augmentations: turned, mirrored, shifted and transposed ones
- use_size_augmentations: enlarged ones
- use_chain_augmentations: ones that are first turned or mirrored and then enlarged
- use_repeat_augmentations: ones that are repeated side by side

The strategy is "train_using_all_tokens" or, for a loss on output grids alone, "train_using_output_tokens".

Write the decision as JSON, with true or false for every kind of copy, a strategy, a learning rate and a whole number \
of epochs, and add nothing else:
{{"data_generation": {{"use_basic_augmentations": ..., "use_size_augmentations": ..., "use_chain_augmentations": ..., \
"use_repeat_augmentations": ...}}, "training": {{"strategy": ..., "learning_rate": ..., "num_train_epochs": ...}}}}

Decision:
"""


class Format(Protocol):
    """How the domain writes and reads text. A source of tasks may have its own, as its `style`."""

    def edit_prompt(self, task: ArcTask) -> str:
        """Returns the text that the policy continues with a directive; it shows the demonstrations."""

    def answer_prompt(self, pairs: Sequence[Pair], test: Grid) -> str:
        """Returns the text that the student continues with the output grid of a test input, given solved pairs."""

    def answer(self, grid: Grid) -> str:
        """Returns an output grid as the student should write it, with what ends it."""

    def parse_answer(self, text: str) -> Grid | None:
        """Returns the grid that the student wrote, `None` if it wrote none."""

    def directive_text(self, directive: Directive) -> str:
        """Returns a directive as the policy would write it."""

    def parse_directive(self, text: str, lenient: bool = False) -> Directive:
        """Reads a directive; see `selfadapt.domains.arc.directive.parse_directive`.

        Raises:
          InvalidEdit: it cannot be used; the message is the reason.
        """


@dataclasses.dataclass(frozen=True)
class JsonFormat:
    """Directives in JSON, grids as lines of digits.

    Attributes:
      template: the edit prompt, with `{examples}`.
      policy: the tokenizer whose chat template wraps edit prompts, `None` for none.
      student: the tokenizer whose chat template wraps answer prompts, `None` for none.
    """

    template: str = DIRECTIVE
    policy: Any = None
    student: Any = None

    def edit_prompt(self, task: ArcTask) -> str:
        """Returns the template filled with the demonstrations."""
        text = self.template.format(examples="".join(map(_example, task.train)))
        return text if self.policy is None else chat_text(self.policy, [{"role": "user", "content": text}])

    def answer_prompt(self, pairs: Sequence[Pair], test: Grid) -> str:
        """Returns the rule's examples, and the test input as one more that has no output yet."""
        examples, last = "".join(map(_example, pairs)), f"Input:\n{render(test)}\nOutput:\n"
        if self.student is None:
            return f"{RULE}\n\n{examples}{last}"
        turns = [{"role": "system", "content": f"{RULE}\n\n{examples}".rstrip()}, {"role": "user", "content": last}]
        return chat_text(self.student, turns)

    def answer(self, grid: Grid) -> str:
        """Returns the grid's lines, and the end: an empty line, or the chat's token that ends a turn."""
        return render(grid) + (END if self.student is None else self.student.eos_token)

    def parse_answer(self, text: str) -> Grid | None:
        """Returns the grid before the first empty line."""
        return parse_grid(text.strip().split(END)[0])

    def directive_text(self, directive: Directive) -> str:
        """Returns the directive as one line of JSON."""
        return render_directive(directive)

    def parse_directive(self, text: str, lenient: bool = False) -> Directive:
        """Reads the JSON; see `selfadapt.domains.arc.directive.parse_directive`."""
        return parse_directive(text, lenient)


def _example(pair: Pair) -> str:
    return f"Input:\n{render(pair.input)}\nOutput:\n{render(pair.output)}{END}"
