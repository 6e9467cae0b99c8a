"""What the evolution protocol writes: edits, the summary, the trees, and the table on the terminal."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from selfadapt.domains.instructions.growing import INVALID, SCORES
from selfadapt.protocols.base import Measured
from selfadapt.protocols.evolve.variants import ENDPOINT, note
from selfadapt.search import Tree, best_of, cross_validate
from selfadapt.telemetry.statistics import mean_interval, paired_difference

HONEST, BEST, OPTIMISM = "honest", "best", "optimism"
REJECTED = "rejected_edits"  # a field of nodes: edits that were dropped before the holdout was asked
ANSWERS = "answers"  # a field of trees: how many were written, where nodes do not have it
PAIRS = (
    ("trained_tree", "untrained_tree"),
    ("trained_chain", "untrained_chain"),
    ("trained_best_of_n", "untrained_best_of_n"),
    ("trained_gepa", "untrained_gepa"),
    ("trained_textgrad", "untrained_textgrad"),
    ("trained_tree", "none"),
    ("endpoint_tree", "none"),
    ("untrained_tree", "none"),
    ("untrained_tree", "untrained_chain"),
    ("untrained_tree", "untrained_best_of_n"),
    ("trained_tree", "trained_chain"),
    ("trained_tree", "trained_best_of_n"),
    ("trained_tree", "trained_gepa"),
    ("trained_tree", "trained_textgrad"),
    ("untrained_gepa", "none"),
    ("untrained_textgrad", "none"),
    ("untrained_tree", "untrained_gepa"),
    ("untrained_tree", "untrained_textgrad"),
    ("trained_tree", "untrained_gepa"),
    ("trained_tree", "untrained_textgrad"),
    ("endpoint_tree", "untrained_tree"),
    ("trained_tree", "endpoint_tree"),
    ("oracle", "trained_tree"),
    ("oracle", "untrained_tree"),
)


@dataclasses.dataclass(frozen=True)
class Evolved:
    """The contexts of one environment that a variant has tried.

    Attributes:
      scores: the reward of each context on each problem of the holdout.
      rounds: the round of each.
      invalid: the reason of each edit that had no instruction.
      instruction: the best context.
      answers: the number of answers that were written.
      rejected: the number of edits that were dropped before the holdout was asked.
      tree: the tree that they are the nodes of, `None` where nothing has grown.
    """

    scores: list[list[float]]
    rounds: list[int]
    invalid: list[str]
    instruction: str
    answers: int
    rejected: int = 0
    tree: Tree | None = None

    @classmethod
    def of(cls, tree: Tree) -> Evolved:
        """Returns the nodes of a tree."""
        answers = sum(len(node.extra[SCORES]) + len(node.summary or ()) for node in tree.nodes)
        return cls(
            scores=[node.extra[SCORES] for node in tree.nodes],
            rounds=[node.round_idx or 0 for node in tree.nodes],
            invalid=[each["reason"] for node in tree.nodes for each in node.extra.get(INVALID, ())],
            instruction=tree.best().instructions,
            answers=tree.extra.get(ANSWERS, answers),
            rejected=sum(len(node.extra.get(REJECTED, ())) for node in tree.nodes),
            tree=tree,
        )

    def measures(self, folds: int, seed: int, last: int | None = None) -> dict[str, float]:
        """Returns the score of the context that is best, in two ways.

        `best` is its score on the holdout that chose it, as LSE reports it; `honest` is the mean over folds of the
        holdout of the score of the context that the other folds chose (`selfadapt.search.cross_validate`); `optimism`
        is their difference.

        Args:
          folds: the number of folds.
          seed: of the folds.
          last: the last round that counts; all by default.
        """
        scores = [own for own, round in zip(self.scores, self.rounds, strict=True) if last is None or round <= last]
        found = cross_validate(scores, folds, seed)
        return {HONEST: found.mean, BEST: best_of(scores)[1], OPTIMISM: found.optimism}


def edit_lines(variant: str, environment: str, tree: Tree) -> Iterator[dict[str, Any]]:
    """Yields the lines of `edits.jsonl` of a tree: its edits in the order of their rounds, those without nodes too."""
    lines = [
        {
            "round": node.round_idx,
            "parent": node.parent_id,
            "node": node.id,
            "text": node.conversation,
            "reward": node.performance,
            "status": "ok",
        }
        for node in tree.nodes
        if node.parent_id is not None
    ]
    lines += [
        {
            "round": each["round_idx"],
            "parent": node.id,
            "node": None,
            "text": each["text"],
            "reward": None,
            "status": each["reason"],
        }
        for node in tree.nodes
        for kind in (INVALID, REJECTED)
        for each in node.extra.get(kind, ())
    ]
    for line in sorted(lines, key=lambda line: line["round"]):
        yield {"task": environment, "variant": variant} | line


def curve(found: Sequence[Evolved], folds: int, seed: int, edits: int) -> list[dict[str, Any]]:
    """Returns the mean measures after each round, with the edits per environment that were written until then."""
    points = []
    for last in range(max(max(each.rounds) for each in found) + 1):
        each = [one.measures(folds, seed, last) for one in found]
        means = {name: sum(one[name] for one in each) / len(each) for name in (HONEST, BEST)}
        points.append({"round": last, "edits": last * edits} | means)
    return points


def measured(
    config: Any, environments: Sequence[str], variants: Mapping[str, Sequence[Evolved]], edits: Mapping[str, int]
) -> Measured:
    """Returns the summary, the files and the table.

    Args:
      config: the resolved config.
      environments: their ids.
      variants: what each variant has found, for each environment.
      edits: the edits of a round, of each variant that has rounds.
    """
    fields, folds, seed = config.protocol, config.protocol.folds, config.seed
    each = {name: [one.measures(folds, seed) for one in found] for name, found in variants.items()}
    rows = []
    for name, found in variants.items():
        invalid = collections.Counter(reason for one in found for reason in one.invalid)
        row = {"name": name, "note": note(name), "contexts": sum(len(one.scores) for one in found)}
        row |= {"invalid": dict(invalid), "rejected": sum(one.rejected for one in found)}
        row |= {"answers": sum(one.answers for one in found) / len(found)}  # per environment
        row |= {measure: mean_interval([one[measure] for one in each[name]]) for measure in (HONEST, BEST, OPTIMISM)}
        rows.append(row | ({"curve": curve(found, folds, seed, edits[name])} if name in edits else {}))
    paired = []
    for a, b in PAIRS:
        if a in each and b in each:
            for measure in (HONEST, BEST):
                sides = [[one[measure] for one in each[name]] for name in (a, b)]
                difference, low, high = paired_difference(*sides)
                paired.append(
                    {"a": a, "b": b, "measure": measure, "difference": difference, "low": low, "high": high}
                    | {"n": len(environments)}
                )
    files: dict[str, Any] = {
        "environments.json": [
            {"environment": id, "variant": name, "contexts": len(one.scores), "instruction": one.instruction}
            | each[name][place]
            for place, id in enumerate(environments)
            for name, found in variants.items()
            for one in [found[place]]
        ]
    }
    for name, found in variants.items():
        for id, one in zip(environments, found, strict=True):
            if one.tree is not None:
                files[f"trees/{name}/{id}/tree.json"] = one.tree.to_json()
    summary = {
        "policy": fields.policy or None,
        "student": (config.student if config.student != ENDPOINT else fields.student_endpoint.model) or None,
        "editor_endpoint": fields.editor_endpoint.model,
        "environments": len(environments),
        "edits": config.domain.tree_rounds * config.domain.tree_edits,
        "selection": config.domain.selection,
        "folds": folds,
        "evolution": rows,
        "paired": paired,
    }
    return Measured(summary, files, table(summary))


def table(summary: Mapping[str, Any]) -> str:
    """Returns the measures of a summary as a text table, with their 95% intervals."""
    names = (HONEST, BEST, OPTIMISM)
    body = [["", *names]]
    for row in summary["evolution"]:
        cells = [row[name] for name in names]
        body.append([row["name"], *(f"{c['mean']:+.3f} [{c['low']:+.3f}, {c['high']:+.3f}]" for c in cells)])
    widths = [max(len(row[column]) for row in body) for column in range(len(body[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in body]
    lines.append("")
    for pair in summary["paired"]:
        lines.append(
            f"{pair['a']} - {pair['b']}, {pair['measure']}: {pair['difference']:+.3f}  "
            f"95% [{pair['low']:+.3f}, {pair['high']:+.3f}]"
        )
    invalid = sum(sum(row["invalid"].values()) for row in summary["evolution"])
    lines.append(f"{invalid} edits had no instruction" if invalid else "every edit had an instruction")
    return "\n".join(lines)
