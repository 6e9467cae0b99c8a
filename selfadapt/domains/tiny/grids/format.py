r"""How the embedded model "tiny_grids" reads and writes grids and directives, with one token per cell.

An example is its input's rows, "->", its output's rows and an empty line:

    012
    345
    ->
    210
    543

"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from selfadapt.domains.arc.directive import STRATEGIES, Directive, parse_directive, render_directive
from selfadapt.domains.arc.grids import Grid, parse_grid
from selfadapt.domains.arc.tasks import ArcTask, Pair
from selfadapt.models.tiny_tokenizer import build_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

ARROW, END, DIRECTIVE = "\n->\n", "\n\n", "Directive: "

# The values of directives that pretraining draws from; each is one token.
RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
EPOCHS = (1, 2, 4, 8)


class CompactFormat:
    """A format (`selfadapt.domains.arc.format.Format`) of few tokens: 24 for an example of 3 x 3 cells."""

    def edit_prompt(self, task: ArcTask) -> str:
        """Returns the demonstrations and the word after which a directive follows."""
        return examples_text(task.train) + DIRECTIVE

    def answer_prompt(self, pairs: Sequence[Pair], test: Grid) -> str:
        """Returns the solved pairs, and the test input as one more that has no output yet."""
        return examples_text(pairs) + rows_text(test) + ARROW

    def answer(self, grid: Grid) -> str:
        """Returns the grid's rows and the empty line that ends an example."""
        return rows_text(grid) + END

    def parse_answer(self, text: str) -> Grid | None:
        """Returns the grid before the first empty line, `None` if there is none."""
        return parse_grid("\n".join(" ".join(row) for row in text.split(END)[0].split("\n")))

    def directive_text(self, directive: Directive) -> str:
        """Returns the directive as one line of JSON."""
        return render_directive(directive)

    def parse_directive(self, text: str, lenient: bool = False) -> Directive:
        """Reads the JSON; see `selfadapt.domains.arc.directive.parse_directive`."""
        return parse_directive(text, lenient)


def rows_text(grid: Grid | np.ndarray) -> str:
    """Returns the rows of a grid as lines of digits, the last one without its line break."""
    return "\n".join("".join(map(str, row)) for row in grid)


def examples_text(pairs: Sequence[Pair]) -> str:
    """Returns solved pairs as text, each with the empty line that ends it."""
    return "".join(rows_text(given) + ARROW + rows_text(output) + END for given, output in pairs)


def make_tokenizer(max_length: int) -> PreTrainedTokenizerFast:
    """Returns the tokenizer: one token per cell, line break, arrow, empty line, and part or value of a directive.

    Args:
      max_length: what its files give as the model's longest input, in tokens.
    """
    return build_tokenizer([], pieces=(ARROW, END, DIRECTIVE, *_directive_pieces()), max_length=max_length)


def _directive_pieces() -> list[str]:
    """Returns the texts around the values of a directive, and the values of more than one character."""
    text = render_directive(Directive(True, True, True, True, "all", RATES[0], EPOCHS[0]))
    strategies = [f'"{name}"' for name in STRATEGIES]
    around = re.split("|".join(["true", *strategies, r"[\d.]+"]), text)
    return [*around, "true", "false", *strategies, *map(repr, RATES)]
