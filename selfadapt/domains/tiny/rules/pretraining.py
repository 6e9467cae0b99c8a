"""The documents that the model of the world of rules is pretrained on.

Documents of answers teach it to follow instructions: some lines, questions, and the answers that follow from the lines.
What is not stated has its default, and of several lines about one key the last one counts.

Documents of edits teach it how instructions are written after a summary, in all qualities. The new instruction keeps,
changes or leaves out each line of the current one (`REVISED`), then states, misreads or leaves out each piece of the
rule that the summary shows (`READ`), and has some lines about other things. All of it is drawn independently of whether
an answer or a current line is right, and of whether a shown piece is in the current instruction already. So pretraining
teaches nothing about which edits are good, and leaves that to reinforcement learning. Of all lines of edits, 43% are
right, 33% wrong, and 24% about nothing that the rule has.

All rules are of the split "pretraining".
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from selfadapt.domains.tiny.rules.families import VALUES, Piece, Rule, draw_rule, write_piece
from selfadapt.domains.tiny.rules.format import END, LINES, answer_prompt, edit_prompt, make_tokenizer
from selfadapt.engine.pretrain import Document

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

__all__ = ["SHARES", "Revision", "documents", "draw_instruction", "draw_revision", "make_tokenizer"]

# Share of all tokens by kind of document. Most are answers: what takes longest to learn is looking up one of several
# lines that could have the same values, as in all families but units.
SHARES = {
    "codes answers": 0.18,
    "units answers": 0.06,
    "formats answers": 0.16,
    "sql answers": 0.20,
    "codes edits": 0.10,
    "units edits": 0.08,
    "formats edits": 0.10,
    "sql edits": 0.12,
}

# The current instruction: how often it is empty, what becomes of each piece of the rule where it is not, and how often
# a second line has another value for a piece that is stated.
EMPTY = 0.2
STATED = {"right": 0.5, "wrong": 0.2, "missing": 0.3}
CONFLICTING = 0.1

# The new instruction: what becomes of each line of the current one, and of each piece that the summary shows.
REVISED = {"kept": 0.5, "changed": 0.2, "left out": 0.3}
READ = {"right": 0.4, "wrong": 0.2, "left out": 0.4}
REPEATED = 0.1  # how often a line occurs twice

OTHERS = 2  # the most lines about other things, in either
SHOWN = (4, 6)  # problems of a summary
SLIPS = 0.05  # of the answers of a summary do not follow from the instruction

Pieces = list[tuple[str, float]]  # text, and the weight of its tokens in the loss


def draw_instruction(rng: random.Random, rule: Rule) -> list[Piece]:
    """Returns lines that state some of a rule, rightly or not, and other things, in random order."""
    if rng.random() < EMPTY:
        return []
    lines = []
    for key, value in rule.pieces:
        stated = _pick(rng, STATED)
        if stated == "missing":
            continue
        lines.append((key, value if stated == "right" else _other_value(rng, key, value)))
        if rng.random() < CONFLICTING:
            lines.append((key, _other_value(rng, *lines[-1])))
    lines += _other_lines(rng, rule)
    return rng.sample(lines, min(len(lines), LINES))


@dataclasses.dataclass(frozen=True)
class Revision:
    """A new instruction, and what it was drawn from.

    Attributes:
      current: the lines of the current instruction.
      summary: questions, answers and truths.
      shown: the pieces of the rule that the truths show, in the order of the questions.
      lines: the lines of the new instruction, at least one and at most `LINES`.
    """

    current: tuple[Piece, ...]
    summary: tuple[tuple[str, str, str], ...]
    shown: Mapping[str, str]
    lines: tuple[Piece, ...]


def draw_revision(rng: random.Random, rule: Rule) -> Revision:
    """Returns a random edit of a random instruction."""
    current = draw_instruction(rng, rule)
    questions = [rule.family.ask(rng, rng.choice(rule.asked)) for _ in range(rng.randint(*SHOWN))]
    summary = []
    for question in questions:
        values = dict(current)
        if rng.random() < SLIPS:
            values |= {key: rng.choice(VALUES[key]) for key in rule.family.uses(question)}
        answer, truth = (rule.family.answer(question, each) for each in (values, rule.values))
        summary.append((question, answer, truth))
    shown = {key: rule.values[key] for question in questions for key in rule.family.uses(question)}
    lines: list[Piece] = []
    while not lines:
        lines = _new_lines(rng, rule, current, shown)
    return Revision(tuple(current), tuple(summary), shown, tuple(lines[:LINES]))


def _new_lines(rng: random.Random, rule: Rule, current: Sequence[Piece], shown: Mapping[str, str]) -> list[Piece]:
    lines = []
    for chances, read in ((REVISED, current), (READ, shown.items())):
        for key, value in read:
            chosen = _pick(rng, chances)
            if chosen != "left out":
                lines.append((key, _other_value(rng, key, value) if chosen in ("changed", "wrong") else value))
                if rng.random() < REPEATED:
                    lines.append(lines[-1])
    for line in _other_lines(rng, rule):
        lines.insert(rng.randint(0, len(lines)), line)
    return lines


def _other_lines(rng: random.Random, rule: Rule) -> list[Piece]:
    """Returns up to `OTHERS` lines about keys that a rule does not have, half of them of its family."""
    lines = []
    for _ in range(rng.randint(0, OTHERS)):
        values = rule.family.values if rng.random() < 0.5 else VALUES
        key = rng.choice([key for key in values if key not in rule.values])
        lines.append((key, rng.choice(values[key])))
    return lines


def _other_value(rng: random.Random, key: str, value: str) -> str:
    return rng.choice([other for other in VALUES[key] if other != value])


def _pick(rng: random.Random, chances: Mapping[str, float]) -> str:
    return rng.choices(list(chances), list(chances.values()))[0]


def _text(lines: Sequence[Piece]) -> str:
    return "\n".join(map(write_piece, lines))


def _answers_document(rng: random.Random, rule: Rule) -> Pieces:
    """Returns an instruction, and a question about each key in random order with the answer that follows from it."""
    lines = draw_instruction(rng, rule)
    pieces: Pieces = []
    for key in rng.sample(rule.asked, len(rule.asked)):
        question = rule.family.ask(rng, key)
        # Only the first question has the instruction before it.
        prompt = answer_prompt("" if pieces else _text(lines), question)
        pieces += [(prompt, 0.0), (rule.family.answer(question, dict(lines)) + END, 1.0)]
    return pieces


def _edits_document(rng: random.Random, rule: Rule) -> Pieces:
    revision = draw_revision(rng, rule)
    return [(edit_prompt(_text(revision.current), revision.summary), 0.0), (_text(revision.lines), 1.0)]


_WRITERS = {"answers": _answers_document, "edits": _edits_document}


def documents(tokenizer: PreTrainedTokenizerFast, seed: int, *, longest: int = 256) -> Iterator[Document]:
    """Yields documents without end; each kind has its share of the tokens (`SHARES`).

    Args:
      tokenizer: that of `make_tokenizer`.
      seed: seeds all random choices.
      longest: the most tokens of a document; a longer one is replaced by another.
    """
    rng = random.Random(f"tiny/rules/documents/{seed}")

    def write(name: str, what: str) -> Pieces:
        return _WRITERS[what](rng, draw_rule(rng, "pretraining", name))

    return in_shares(tokenizer, SHARES, write, longest)


def in_shares(
    tokenizer: PreTrainedTokenizerFast, shares: Mapping[str, float], write: Callable[[str, str], Pieces], longest: int
) -> Iterator[Document]:
    """Yields documents without end, of the kind that lacks most of its share of the tokens.

    Args:
      tokenizer: that of `make_tokenizer`.
      shares: share of all tokens by kind, "SUBJECT answers" or "SUBJECT edits".
      write: returns a random document's texts with the weights of their tokens, given the kind's two words.
      longest: the most tokens of a document; a longer one, and one without texts, is replaced by another.
    """
    encode = tokenizer.backend_tokenizer.encode
    written = dict.fromkeys(shares, 0)
    while True:
        kind = min(shares, key=lambda name: written[name] / shares[name])
        subject, what = kind.split(" ")
        pieces = write(subject, what)
        parts = [(encode(text, add_special_tokens=False).ids, weight) for text, weight in pieces]
        tokens = [*(token for ids, _ in parts for token in ids), tokenizer.eos_token_id]
        # The end of the text ends an edit; answers end with a line break, and more questions could follow.
        weights = [*(weight for ids, weight in parts for _ in ids), 1.0 if what == "edits" else 0.0]
        if not pieces or len(tokens) > longest:
            continue
        written[kind] += len(tokens)
        yield Document(np.array(tokens), np.array(weights), list(shares).index(kind))
