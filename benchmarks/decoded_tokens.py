"""How many of the tokens that `generate` decodes belong to texts, on lengths of real edits.

    python -m benchmarks.decoded_tokens FILE.json [FILE.json ...]

Files have SEAL's edits (`completions` of each passage), whose lengths are taken as four characters a token. Nothing
runs: the scheduler of `selfadapt plan` goes through the texts, once as `generate` does, which fills the places of texts
that end with further ones and compacts the batch when there are none, once with batches that are compacted and run one
after the other, and once with all rows to the end. Behind each share: how many tokens are written one after the other.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from unittest import mock

import numpy as np

from selfadapt.data.edits import read_edits
from selfadapt.engine.generate.live import LiveRows
from selfadapt.parallel.sharding import round_up
from selfadapt.plan.writing import Stage, write

WIDTH, MOST = 320, 8192  # tokens of a prompt, and that SEAL allows an edit


def through(lengths: Sequence[int], rows: int, shards: int, *, waiting: bool) -> tuple[float, int]:
    """Returns new tokens by decoded ones, and how many tokens the base model writes one after the other.

    Args:
      lengths: tokens of each text.
      rows: texts at once.
      shards: shards of the mesh.
      waiting: whether further texts take the places of those that end; otherwise batches run one after the other, the
        last one padded.
    """
    stages: list[Stage] = []
    for start in range(0, len(lengths), len(lengths) if waiting else rows):
        batch = np.ones((1, rows), int)
        own = lengths[start : start + rows]
        batch[0, : len(own)] = own
        more = np.asarray(lengths[rows:] if waiting else [], int)
        stages += write(batch, WIDTH, MOST, shards, waiting=more).stages
    written, decoded, steps = (sum(getattr(stage, name) for stage in stages) for name in ("tokens", "padded", "steps"))
    return written / decoded, steps


def main(argv: Sequence[str] | None = None) -> None:
    """Prints a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+")
    parser.add_argument("--rows", type=int, nargs="+", default=[64, 250])
    parser.add_argument("--shards", type=int, nargs="+", default=[1, 8])
    options = parser.parse_args(argv)
    print("| file | texts | mean, longest | rows | shards | all rows to the end | compacted | filled |")
    print("| --- " * 8 + "|")
    for file in options.files:
        lengths = [max(1, round(len(text) / 4)) for own in read_edits(file).texts.values() for text in own]
        about = f"{file} | {len(lengths)} | {np.mean(lengths):.0f}, {max(lengths)}"
        for rows in options.rows:
            for shards in options.shards:
                padded = round_up(rows, shards)
                with mock.patch.object(LiveRows, "compacted", lambda self, done, **when: None):
                    whole = through(lengths, padded, shards, waiting=False)
                found = whole, *(through(lengths, padded, shards, waiting=waiting) for waiting in (False, True))
                print(f"| {about} | {padded} | {shards} | " + " | ".join(f"{s:.2f}, {n}" for s, n in found) + " |")


if __name__ == "__main__":
    main()
