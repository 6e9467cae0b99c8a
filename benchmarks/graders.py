"""How well the offline graders agree with GPT-4.1, on the verdicts saved in SEAL's result files.

    python -m benchmarks.graders DATA_DIRECTORY

`DATA_DIRECTORY` contains `result_eval_base.json` and `result_eval_iter2.json` (SEAL's repository,
`knowledge-incorporation/results/query_server/eval/`), directly or in `seal/knowledge/`. Prints a Markdown table, then
the lengths of answers and how often the judge contradicts itself.
"""

from __future__ import annotations

import argparse
import pathlib
import statistics
from collections.abc import Iterator
from typing import Any

from selfadapt.graders import GradeItem, get_grader
from selfadapt.seal.analyze import compare
from selfadapt.seal.results import read_results

FILES = ("result_eval_base.json", "result_eval_iter2.json")
GRADERS: dict[str, tuple[str, dict[str, Any]]] = {
    "exact": ("exact", {}),
    "containment": ("containment", {}),
    "token-F1 >= 0.2": ("token-f1", {"threshold": 0.2}),
    "token-F1 >= 0.3": ("token-f1", {"threshold": 0.3}),
    "token-F1 >= 0.5": ("token-f1", {"threshold": 0.5}),
    "token-F1 >= 0.8": ("token-f1", {"threshold": 0.8}),
    "token-F1, no threshold": ("token-f1", {}),
}

# (passage, "baseline" or "adapter", item, GPT-4.1's verdict) for every graded answer of a file
Graded = list[tuple[int, str, GradeItem, bool]]


def rows(path: pathlib.Path) -> Iterator[tuple[int, str, GradeItem, bool]]:
    """Yields the graded answers of a file."""
    for passage, article in enumerate(read_results(path).content["articles"]):
        for completion in article["completions"]:
            for q in completion["questions"]:
                for side in ("baseline", "adapter"):
                    item = GradeItem(q["question"], (q["answer"],), q[f"{side}_answer"])
                    yield passage, side, item, q[f"{side}_correct"]


def kappa(ours: list[bool], theirs: list[bool]) -> float:
    """Returns Cohen's kappa: agreement beyond what the two rates of yes give by chance."""
    agree = statistics.fmean(a == b for a, b in zip(ours, theirs, strict=True))
    p, q = statistics.fmean(ours), statistics.fmean(theirs)
    chance = p * q + (1 - p) * (1 - q)
    return (agree - chance) / (1 - chance)


def by_passage(answers: Graded, scores: list[float], side: str) -> dict[str, float]:
    """Returns the mean score of each passage on one side."""
    groups: dict[str, list[float]] = {}
    for (passage, of, _, _), score in zip(answers, scores, strict=True):
        if of == side:
            groups.setdefault(str(passage), []).append(score)
    return {passage: statistics.fmean(group) for passage, group in groups.items()}


def differences(data: list[Graded], scores: list[list[float]]) -> str:
    """Returns two effects with 95% intervals, paired by passage: adapted - base model, and iter2 - base."""
    base, iter2 = zip(data, scores, strict=True)
    pairs = [(by_passage(*base, "baseline"), by_passage(*base, "adapter"))]
    pairs += [(by_passage(*base, "adapter"), by_passage(*iter2, "adapter"))]
    found = [compare("before", "after", "passage", *pair).difference for pair in pairs]
    return " | ".join(f"{e.mean:+.3f} [{e.low:+.3f}, {e.high:+.3f}]" for e in found)


def table(directory: pathlib.Path) -> str:
    """Returns the Markdown table of agreement and bias."""
    data = [list(rows(directory / name)) for name in FILES]
    judged = [[float(verdict) for *_, verdict in answers] for answers in data]
    everyone = [bool(v) for values in judged for v in values]
    yes = statistics.fmean(everyone)
    lines = [
        "| grader | agreement | kappa | rate of yes | bias | yes, judge no | no, judge yes "
        "| adapted - base model | iter2 - base |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        f"| GPT-4.1, {len(everyone)} answers | | | {yes:.1%} | | | | {differences(data, judged)} |",
    ]
    for label, (name, options) in GRADERS.items():
        grader = get_grader(name, **options)
        scores = [grader.grade([item for _, _, item, _ in answers]) for answers in data]
        flat = [score for values in scores for score in values]
        cells = ["", "", f"{statistics.fmean(flat):.1%}", f"{100 * (statistics.fmean(flat) - yes):+.1f}", "", ""]
        if set(flat) <= {0.0, 1.0}:
            ours = [score == 1.0 for score in flat]
            pairs = list(zip(ours, everyone, strict=True))
            cells[:2] = f"{statistics.fmean(a == b for a, b in pairs):.1%}", f"{kappa(ours, everyone):.2f}"
            cells[4:] = str(pairs.count((True, False))), str(pairs.count((False, True)))
        lines.append(f"| {label} | {' | '.join(cells)} | {differences(data, scores)} |")
    return "\n".join(lines)


def facts(directory: pathlib.Path) -> str:
    """Returns the lengths of answers, and how often the judge contradicts itself."""
    data = [list(rows(directory / name)) for name in FILES]
    lines = ["| answers | of 1 to 5 words | empty | words, median |", "| --- | --- | --- | --- |"]
    for name, answers in zip(FILES, data, strict=True):
        for side in ("baseline", "adapter"):
            words = [len(item.answer.split()) for _, of, item, _ in answers if of == side]
            short, empty = statistics.fmean(0 < n <= 5 for n in words), statistics.fmean(n == 0 for n in words)
            lines.append(f"| {side}, `{name}` | {short:.1%} | {empty:.1%} | {statistics.median(words):.0f} |")
    first, second = ([row for row in answers if row[1] == "baseline"] for answers in data)
    verdicts = [(a[3], b[3]) for a, b in zip(first, second, strict=True) if a[2] == b[2]]
    differ = sum(a != b for a, b in verdicts)
    lines.append(f"\nBase-model answers equal in both files: {len(verdicts)}; judged differently: {differ}")
    return "\n".join(lines)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=pathlib.Path, help="the directory of SEAL's result files")
    directory = parser.parse_args().data
    nested = directory / "seal" / "knowledge"
    directory = nested if nested.is_dir() else directory
    print(table(directory), facts(directory), sep="\n\n")


if __name__ == "__main__":
    main()
