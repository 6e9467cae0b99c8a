"""Which names of the tiny world's "train" and "heldout" splits occur in what the embedded model was pretrained on?

An artist has the name of a person, and persons are values of attributes (mayors, teachers, owners). This goes
through the documents of configs/pretrain_tiny.py and prints, by split and kind of entity, how many of the names occur
anywhere in them, how often in all, and how many are the subject of a document. About a minute.

    python -m benchmarks.pretraining_names
"""

from __future__ import annotations

import collections
import itertools
import pathlib
from collections.abc import Iterable

from selfadapt.config import load_config
from selfadapt.domains.tiny import pretraining, world
from selfadapt.domains.tiny.kinds import KINDS
from selfadapt.engine import pretrain
from selfadapt.models.tiny_tokenizer import build_tokenizer

CONFIG = pathlib.Path(__file__).parent.parent / "configs" / "pretrain_tiny.py"
SEPARATORS = str.maketrans(dict.fromkeys("\n.?", " "))


def count_names(texts: Iterable[str]) -> tuple[collections.Counter[str], collections.Counter[str]]:
    """Counts two-word names in documents.

    Args:
      texts: documents, the first line of each its title.

    Returns:
      How often each pair of neighbouring words occurs, and how often each title ends with such a pair.
    """
    pairs: collections.Counter[str] = collections.Counter()
    subjects: collections.Counter[str] = collections.Counter()
    for text in texts:
        pairs.update(map(" ".join, itertools.pairwise(text.translate(SEPARATORS).split(" "))))
        subjects[" ".join(text.split("\n")[0].split(" ")[-2:])] += 1
    return pairs, subjects


def table(texts: Iterable[str]) -> str:
    """Returns the Markdown table."""
    pairs, subjects = count_names(texts)
    lines = [
        "| split | kind | names | occur | times | subject of a document |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for split in world.SPLITS:
        for kind in KINDS:
            names = world.names(kind, split)
            cells = (len(names), sum(name in pairs for name in names), sum(pairs[name] for name in names))
            about = sum(name in subjects for name in names)
            lines.append(f"| {split} | {kind.label.split()[-1]} | {' | '.join(map(str, cells))} | {about} |")
    return "\n".join(lines)


def pretraining_texts() -> list[str]:
    """Returns the documents that the embedded model was pretrained on, as text."""
    config = load_config(CONFIG)
    tokenizer = build_tokenizer(world.every_text(), max_length=config.model.max_position_embeddings)
    used = []

    def stream():
        for document in pretraining.documents(tokenizer, config.seed, longest=config.row_tokens):
            used.append(document.tokens)
            yield document

    batches = pretrain.pack(stream(), rows=config.rows, length=config.row_tokens)
    collections.deque(itertools.islice(batches, config.steps), maxlen=0)
    return tokenizer.batch_decode(used)


def main() -> None:
    """Prints the table."""
    print(table(pretraining_texts()))


if __name__ == "__main__":
    main()
