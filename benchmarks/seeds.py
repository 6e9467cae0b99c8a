"""Several runs of one experiment side by side, as the Markdown tables of docs/results.md.

for seed in 1 2 3 4 5; do
selfadapt train --config=configs/quickstart.py --workdir=runs/seed$seed --config.seed=$seed
done
python -m benchmarks.seeds runs/seed1 runs/seed2 runs/seed3 runs/seed4 runs/seed5
"""

from __future__ import annotations

import json
import pathlib
import sys


def main(argv: list[str] | None = None) -> None:
    """Prints two tables: the ladder of every run, and the paired differences with their 95% intervals."""
    paths = sys.argv[1:] if argv is None else argv
    summaries = [json.loads((pathlib.Path(path) / "summary.json").read_text()) for path in paths]
    names = [row["name"] for row in (*summaries[0]["ladder"], *summaries[0]["extras"])]
    print(f"| seed | {' | '.join(names)} | seconds |\n|{' --- |' * (len(names) + 2)}")
    for summary in summaries:
        rows = {row["name"]: row for row in (*summary["ladder"], *summary["extras"])}
        cells = [f"{rows[name]['mean']:.3f} ± {rows[name]['stderr']:.3f}" if name in rows else "-" for name in names]
        print(f"| {summary['seed']} | {' | '.join(cells)} | {summary['seconds']:.0f} |")
    pairs = [(pair["a"], pair["b"]) for pair in summaries[0]["paired"]]
    print(f"\n| seed | {' | '.join(f'{a} - {b}' for a, b in pairs)} |\n|{' --- |' * (len(pairs) + 1)}")
    for summary in summaries:
        found = {(pair["a"], pair["b"]): pair for pair in summary["paired"]}
        cells = []
        for key in pairs:
            pair = found.get(key)
            cells.append(f"{pair['difference']:+.3f} [{pair['low']:+.3f}, {pair['high']:+.3f}]" if pair else "-")
        print(f"| {summary['seed']} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
