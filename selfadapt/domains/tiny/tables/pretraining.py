"""The documents that continue the pretraining of the model of rules: edits with sections, and answers about tables.

An edit's way (words, weights or both) is drawn without regard to the kind of its case, and its lines are right, wrong
or left out. So the way that the untrained policy writes hardly depends on the kind, and which way pays is left to
reinforcement learning.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from selfadapt.domains.tiny.rules.families import Piece, write_piece
from selfadapt.domains.tiny.rules.format import END, LINES, make_tokenizer
from selfadapt.domains.tiny.rules.pretraining import Pieces, in_shares
from selfadapt.domains.tiny.tables.cases import VALUES, Case, ask, draw_case
from selfadapt.domains.weights_or_words.sections import BOTH, WEIGHTS, WORDS, Sections
from selfadapt.engine.pretrain import Document

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

__all__ = ["SHARES", "documents", "draw_edit", "make_tokenizer"]

# Share of all tokens by kind of document.
SHARES = {
    "rule answers": 0.12,
    "table answers": 0.12,
    "mixed answers": 0.12,
    "rule edits": 0.16,
    "table edits": 0.24,
    "mixed edits": 0.24,
}

STATED = {"right": 0.88, "wrong": 0.06, "left out": 0.06}  # what becomes of each line of a case in an edit


def draw_edit(rng: random.Random, case: Case) -> Sections:
    """Returns a random edit: each way is equally likely, and so is which comes first, a rule or a table.

    Of an edit of both ways the first lines are under "words:", any number of them that a prompt may have.
    """
    way = rng.choice((WORDS, WEIGHTS, BOTH))
    groups = list(case.groups.values())
    lines: list[str] = []
    while len(lines) < 2:
        lines = [write_piece(line) for group in rng.sample(groups, len(groups)) for line in draw_lines(rng, group)]
    cut = {WORDS: len(lines), WEIGHTS: 0, BOTH: rng.randint(1, min(LINES, len(lines) - 1))}[way]
    return Sections(tuple(lines[: min(cut, LINES)]), tuple(lines[cut:]))


def draw_lines(rng: random.Random, lines: Iterable[Piece]) -> list[Piece]:
    """Returns lines as an edit has them: some with another value, some left out."""
    found = []
    for key, value in lines:
        (stated,) = rng.choices(list(STATED), list(STATED.values()))
        if stated == "wrong":
            value = rng.choice([other for other in VALUES[key] if other != value])
        if stated != "left out":
            found.append((key, value))
    return found


def _edits_document(rng: random.Random, case: Case) -> Pieces:
    return [(case.prompt, 0.0), (draw_edit(rng, case).write(), 1.0)]


def _answers_document(rng: random.Random, case: Case) -> Pieces:
    """Returns an instruction, and questions in random order with the answers that follow from it."""
    groups = list(case.groups.values())
    lines = [line for group in rng.sample(groups, len(groups)) for line in draw_lines(rng, group)][:LINES]
    stated, instruction = dict(lines), list(map(write_piece, lines))
    asked = [(key, stated[key]) for key, _ in case.facts if key in stated]
    if case.rule:
        questions = [case.rule.family.ask(rng, key) for key in case.rule.asked]
        asked += [(question, case.rule.family.answer(question, stated)) for question in questions]
    pieces: Pieces = []
    for question, answer in rng.sample(asked, len(asked)):
        # Only the first question has the instruction before it.
        pieces += [(ask([] if pieces else instruction, question), 0.0), (answer + END, 1.0)]
    return pieces


_WRITERS = {"answers": _answers_document, "edits": _edits_document}


def documents(tokenizer: PreTrainedTokenizerFast, seed: int, *, longest: int = 256) -> Iterator[Document]:
    """Yields documents without end; each kind has its share of the tokens (`SHARES`).

    Args:
      tokenizer: that of `make_tokenizer`.
      seed: seeds all random choices.
      longest: the most tokens of a document; a longer one is replaced by another.
    """
    rng = random.Random(f"tiny/tables/documents/{seed}")

    def write(name: str, what: str) -> Pieces:
        return _WRITERS[what](rng, draw_case(rng, "pretraining", name))

    return in_shares(tokenizer, SHARES, write, longest)
