"""The documents that the embedded model is pretrained on.

Five kinds of document teach it to answer questions about a passage in its context (open book), to answer from
statements that it was trained on (lines, and closed-book questions about known entities), to write edits of mixed
quality, and the prose of passages. Edits have all styles in about fixed shares, so that an untrained policy samples
all of them and reinforcement learning can select among them: the styles, and that some of them teach more than
others, are planted here.

Documents are only about entities whose names are of the "pretraining" split (but see `world` on persons).
"""

from __future__ import annotations

import functools
import itertools
import random
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from selfadapt.domains.tiny import world
from selfadapt.domains.tiny.kinds import KINDS, VAGUE, Attribute
from selfadapt.domains.tiny.world import Entity, question_answer_line
from selfadapt.engine.pretrain import Document
from selfadapt.models.tiny_tokenizer import build_tokenizer
from selfadapt.types import Task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

KNOWN = 128  # entities with fixed facts
UNASKED = 24  # of these, how many occur in statements only and are never asked about; `check` asks about them

# Share of all tokens by kind of document.
SHARES = {"edit": 0.50, "open-book": 0.22, "prose": 0.06, "line": 0.10, "closed-book": 0.12}

# How often an edit has each style; one line in five draws its style anew.
STYLES = {"question-answer": 0.15, "statement": 0.20, "vague": 0.25, "wrong value": 0.15, "copy": 0.25}

Pieces = list[tuple[str, float]]  # text, and the weight of its tokens in the loss


@functools.cache
def known_entities() -> tuple[Entity, ...]:
    """Returns the entities whose facts are fixed; the last `UNASKED` are never asked about."""
    rng = random.Random("tiny/known")
    each = KNOWN // len(KINDS)
    drawn = [[world.draw_entity(rng, kind, name) for name in world.names(kind, "pretraining")[:each]] for kind in KINDS]
    return tuple(itertools.chain.from_iterable(zip(*drawn, strict=True)))


def fresh_entity(rng: random.Random) -> Entity:
    """Returns an entity that is not a known one, with random facts."""
    kind = rng.choice(KINDS)
    return world.draw_entity(rng, kind, rng.choice(world.names(kind, "pretraining")[KNOWN // len(KINDS) :]))


def edit_lines(rng: random.Random, entity: Entity, passage: str) -> list[str]:
    """Returns an edit of three to six lines in a random style."""
    style = _draw_style(rng)
    facts = rng.sample(entity.facts(), rng.randint(3, 6))
    copies = rng.sample(sentences := world.sentences(passage), len(sentences))
    return [
        _line(rng, entity, attribute, value, style if rng.random() < 0.8 else _draw_style(rng), copies)
        for attribute, value in facts
    ]


def _draw_style(rng: random.Random) -> str:
    return rng.choices(list(STYLES), list(STYLES.values()))[0]


def _line(rng: random.Random, entity: Entity, attribute: Attribute, value: str, style: str, copies: list[str]) -> str:
    if style == "copy" and copies:
        return copies.pop()
    if style in ("copy", "vague"):  # a passage can have fewer sentences than an edit has lines
        return rng.choice(VAGUE).format(noun=attribute.noun, name=entity.mention)
    if style == "wrong value":
        value = rng.choice([other for other in world.pool(attribute) if other != value])
        style = rng.choice(("question-answer", "statement"))
    if style == "statement":
        return rng.choice(attribute.statements).format(name=entity.mention, value=value)
    return question_answer_line(rng.choice(attribute.edit_questions).format(name=entity.mention), value)


def _edit_document(rng: random.Random) -> Pieces:
    entity = fresh_entity(rng)
    passage = world.write_passage(rng, entity)
    prompt = world.edit_prompt(Task(id="", context=passage, questions=(), title=entity.title))
    return [(prompt, 0.0), ("\n".join(edit_lines(rng, entity, passage)), 1.0)]


def _open_book_document(rng: random.Random) -> Pieces:
    entity = fresh_entity(rng)
    pieces = [(f"{entity.title}\n{world.write_passage(rng, entity)}", 0.0)]
    for attribute, value in rng.sample(entity.facts(), 5):
        pieces += [("\n" + _ask(rng, entity, attribute), 0.0), (f" {value}", 1.5)]
    return pieces


def _closed_book_document(rng: random.Random) -> Pieces:
    entity = rng.choice(known_entities()[:-UNASKED])
    attribute, value = rng.choice(entity.facts())
    return [(f"{entity.title}\n{_ask(rng, entity, attribute)}", 0.0), (f" {value}", 2.0)]


def _ask(rng: random.Random, entity: Entity, attribute: Attribute) -> str:
    question = rng.choice((attribute.evaluation, attribute.evaluation, *attribute.edit_questions))
    return world.answer_prompt(question.format(name=entity.mention))


def _line_document(rng: random.Random) -> Pieces:
    entity = rng.choice(known_entities())
    attribute, value = rng.choice(entity.facts())
    asked = rng.random() < 0.2 and entity not in known_entities()[-UNASKED:]
    line = _line(rng, entity, attribute, value, "question-answer" if asked else "statement", [])
    return [(f"{entity.title}\n{line}", 1.0)]


def _prose_document(rng: random.Random) -> Pieces:
    entity = fresh_entity(rng)
    return [(f"{entity.title}\n{world.write_passage(rng, entity)}", 1.0)]


_WRITERS: dict[str, Callable[[random.Random], Pieces]] = {
    "edit": _edit_document,
    "open-book": _open_book_document,
    "prose": _prose_document,
    "line": _line_document,
    "closed-book": _closed_book_document,
}


def make_tokenizer(max_length: int) -> PreTrainedTokenizerFast:
    """Returns the tokenizer, in which every word of the world is one token.

    Args:
      max_length: what its files give as the model's longest input, in tokens.
    """
    return build_tokenizer(world.every_text(), max_length=max_length)


def documents(tokenizer: PreTrainedTokenizerFast, seed: int, *, longest: int = 192) -> Iterator[Document]:
    """Yields documents without end; each kind has its share of the tokens (`SHARES`).

    One prose document in two has half of its words spelled in bytes, so that the model also learns the tokens that
    other text consists of.

    Args:
      tokenizer: the world's tokenizer.
      seed: seeds all random choices.
      longest: the most tokens of a document. A longer one is replaced by another, or cut if it is spelled in bytes.
    """
    rng = random.Random(f"tiny/documents/{seed}")
    spellings = _spellings(tokenizer)
    written = dict.fromkeys(SHARES, 0)
    while True:
        kind = min(SHARES, key=lambda name: written[name] / SHARES[name])
        tokens, weights = [], []
        for text, weight in _WRITERS[kind](rng):
            ids = _encode(tokenizer, text)
            tokens += ids
            weights += [weight] * len(ids)
        tokens.append(tokenizer.eos_token_id)
        weights.append(weights[-1])
        if kind == "prose" and rng.random() < 0.5:
            spelled = [spellings.get(token, [token]) if rng.random() < 0.5 else [token] for token in tokens]
            tokens = list(itertools.chain.from_iterable(spelled))[:longest]
            weights = [1.0] * len(tokens)
        if len(tokens) > longest:
            continue
        written[kind] += len(tokens)
        yield Document(np.array(tokens), np.array(weights), list(SHARES).index(kind))


def texts(seed: int) -> Iterator[str]:
    """Yields the texts of documents without end, one of each kind in turn; no words are spelled in bytes.

    Args:
      seed: seeds all random choices.
    """
    rng = random.Random(f"tiny/texts/{seed}")
    for write in itertools.cycle(_WRITERS.values()):
        yield "".join(text for text, _ in write(rng))


def _encode(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    return tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids


def _spellings(tokenizer: PreTrainedTokenizerFast) -> dict[int, list[int]]:
    """Returns for the token id of each word the token ids of its bytes."""
    vocabulary = tokenizer.get_vocab()
    words = {word: index for word, index in vocabulary.items() if index != tokenizer.eos_token_id}
    return {index: [vocabulary[byte] for byte in word] for word, index in words.items()}
