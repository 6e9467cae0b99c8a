"""How many of the tokens that `generate` decodes belong to texts, on lengths of real edits.

    python -m benchmarks.decoded_tokens FILE.json [FILE.json ...]

Files have SEAL's edits (`completions` of each passage), whose lengths are taken as four characters a token. Nothing
runs: the scheduler of `selfadapt plan` goes through the texts, once as `generate` does, which compacts its batches, and
once with all rows to the end. The last column is what even shards, compacted at each visit of the host, would have.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from unittest import mock

import numpy as np

from selfadapt.data.edits import read_edits
from selfadapt.engine.generate import programs
from selfadapt.engine.generate.live import LiveRows
from selfadapt.parallel.sharding import round_up
from selfadapt.plan.programs import decode_stages

WIDTH, MOST = 320, 8192  # tokens of a prompt, and that SEAL allows an edit


def share(lengths: Sequence[int], rows: int, shards: int) -> float:
    """Returns new tokens by decoded ones, of batches of `rows` texts of the base model, the last one padded."""
    written = decoded = 0
    for start in range(0, len(lengths), rows):
        batch = np.ones((1, rows), int)
        batch[0, : len(lengths) - start] = lengths[start : start + rows]
        stages = decode_stages(batch, WIDTH, MOST, shards)
        written += sum(stage.tokens for stage in stages)
        decoded += sum(stage.padded for stage in stages)
    return written / decoded


def most(lengths: Sequence[int], rows: int, shards: int) -> float:
    """Returns the same if live rows were compacted, and spread evenly, at each visit of the host."""
    written = decoded = 0
    for start in range(0, len(lengths), rows):
        batch = np.asarray(lengths[start : start + rows])
        for count in range(1, batch.max(), programs.DECODE_STEPS):
            steps = min(programs.DECODE_STEPS, batch.max() - count)
            written += np.clip(batch - count, 0, steps).sum()
            decoded += steps * round_up(np.sum(batch > count), shards)
    return written / decoded


def main(argv: Sequence[str] | None = None) -> None:
    """Prints a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+")
    parser.add_argument("--rows", type=int, nargs="+", default=[64, 250])
    parser.add_argument("--shards", type=int, nargs="+", default=[1, 8])
    options = parser.parse_args(argv)
    print("| file | texts | mean, longest | rows | shards | all rows to the end | compacted | at most |")
    print("| --- " * 8 + "|")
    for file in options.files:
        lengths = [max(1, round(len(text) / 4)) for own in read_edits(file).texts.values() for text in own]
        about = f"{file} | {len(lengths)} | {np.mean(lengths):.0f}, {max(lengths)}"
        for rows in options.rows:
            for shards in options.shards:
                padded = round_up(rows, shards)
                with mock.patch.object(LiveRows, "compacted", lambda self, done, **when: None):
                    whole = share(lengths, padded, shards)
                found = whole, share(lengths, padded, shards), most(lengths, padded, shards)
                print(f"| {about} | {padded} | {shards} | " + " | ".join(f"{value:.2f}" for value in found) + " |")


if __name__ == "__main__":
    main()
