"""The documents that the embedded model "tiny_grids" is pretrained on.

A document is a series of examples of one rule, so that predicting the next output is solving a few-shot task. Some end
with a directive instead of a further example. It is drawn uniformly and independently of the rule and the examples, so
that pretraining teaches how directives are written and nothing about which ones are good.

No rule is a composition that the tasks of an experiment have (`dsl.split_of`).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from selfadapt.domains.arc.directive import STRATEGIES, Directive
from selfadapt.domains.tiny.grids import dsl
from selfadapt.domains.tiny.grids.format import (
    ARROW,
    DIRECTIVE,
    END,
    EPOCHS,
    RATES,
    CompactFormat,
    make_tokenizer,
    rows_text,
)
from selfadapt.engine.pretrain import Document

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

__all__ = ["SHARES", "documents", "make_tokenizer", "random_directive"]

# Share of all tokens by kind of document: rules of one step, of two, and examples that a directive follows.
SHARES = {"step": 0.6, "composition": 0.25, "directive": 0.15}

# Weights in the loss. Inputs are random, and of a document's first output only its shape and fills can be known.
INPUT, FIRST_OUTPUT, OUTPUT = 0.1, 0.3, 1.0

SMALLEST, LARGEST, MOST_CELLS = 2, 5, 16  # of inputs that are not 3 x 3

Pieces = list[tuple[str, float]]  # text, and the weight of its tokens in the loss


def random_directive(rng: random.Random) -> Directive:
    """Returns a directive with every value drawn uniformly."""
    basic, size, chain, repeat = (rng.random() < 0.5 for _ in range(4))
    loss = rng.choice(list(STRATEGIES.values()))
    return Directive(basic, size, chain, repeat, loss, learning_rate=rng.choice(RATES), epochs=rng.choice(EPOCHS))


def _examples(rng: random.Random, steps: int, count: int) -> Pieces:
    rule = dsl.draw_rule(rng, "pretraining", steps=steps)
    pieces = []
    for given, output in dsl.draw_examples(rng, rule, count, _shape(rng)):
        pieces += [(rows_text(given) + ARROW, INPUT), (rows_text(output) + END, OUTPUT)]
    return pieces


def _shape(rng: random.Random) -> tuple[int, int]:
    """Returns the shape of a document's inputs: 3 x 3, as tasks have, or in one of five any small one."""
    if rng.random() < 0.8:
        return 3, 3
    height = rng.randint(SMALLEST, LARGEST)
    return height, rng.randint(SMALLEST, min(LARGEST, MOST_CELLS // height))


def _step_document(rng: random.Random) -> Pieces:
    return _examples(rng, 1, rng.randint(3, 8))


def _composition_document(rng: random.Random) -> Pieces:
    return _examples(rng, 2, rng.randint(3, 8))


def _directive_document(rng: random.Random) -> Pieces:
    text = CompactFormat().directive_text(random_directive(rng))
    return [*_examples(rng, rng.choice((1, 2)), rng.randint(2, 6)), (DIRECTIVE, 0.0), (text, 1.0)]


_WRITERS: dict[str, Callable[[random.Random], Pieces]] = {
    "step": _step_document,
    "composition": _composition_document,
    "directive": _directive_document,
}


def documents(tokenizer: PreTrainedTokenizerFast, seed: int, *, longest: int = 192) -> Iterator[Document]:
    """Yields documents without end; each kind has its share of the tokens (`SHARES`).

    Args:
      tokenizer: that of `make_tokenizer`.
      seed: seeds all random choices.
      longest: the most tokens of a document; of a longer one only the last examples are kept.
    """
    rng = random.Random(f"tiny/grids/documents/{seed}")
    encode = tokenizer.backend_tokenizer.encode
    written = dict.fromkeys(SHARES, 0)
    while True:
        kind = min(SHARES, key=lambda name: written[name] / SHARES[name])
        parts = [(encode(text, add_special_tokens=False).ids, weight) for text, weight in _WRITERS[kind](rng)]
        while 1 + sum(len(ids) for ids, _ in parts) > longest:
            del parts[:2]
        if len(parts) < 4:  # fewer than two examples
            continue
        parts[1] = parts[1][0], FIRST_OUTPUT
        tokens = [token for ids, _ in parts for token in ids]
        weights = [weight for ids, weight in parts for _ in ids]
        # The end of the text ends a directive; a series of examples could go on.
        ending = 1.0 if kind == "directive" else 0.0
        written[kind] += len(tokens) + 1
        yield Document(
            np.array([*tokens, tokenizer.eos_token_id]), np.array([*weights, ending]), list(SHARES).index(kind)
        )
