"""The page about evolution at test time: scores of the chosen instructions, and trees of some environments."""

from __future__ import annotations

import functools
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import markupsafe

from selfadapt.errors import UserError
from selfadapt.files import read_json
from selfadapt.report import plots, svg, template, tree
from selfadapt.report.retention import percent
from selfadapt.search.tree import Tree
from selfadapt.telemetry.progress import duration

MEASURES = {"honest": "chosen by other problems", "best": "best on the same problems", "optimism": "optimism"}
TREES = 3  # environments whose trees are shown
_NEEDED = ("name", *MEASURES)
_LINES = ("held-out", "best", "mean-reward", "baseline", "given1", "given2", "given3")  # kinds; the last for all others
_WIDTH = 760  # pixels


def render(summary: dict[str, Any], config: dict[str, Any], workdir: pathlib.Path) -> str:
    """Returns the page about a run.

    Args:
      summary: the contents of `summary.json` (`selfadapt.protocols.evolve`).
      config: those of `config.json`.
      workdir: the run's workdir, of which `environments.json` and `trees/` are read.

    Raises:
      UserError: the summary has no variant or a part of one is missing, or a file cannot be used.
    """
    rows: list[dict[str, Any]] = summary["evolution"] or [{}]
    for index, row in enumerate(rows):
        if missing := [name for name in _NEEDED if name not in row]:
            raise UserError(f"{workdir / 'summary.json'}: evolution[{index}] has no {missing[0]!r}")
    grown = [row["name"] for row in rows if (workdir / "trees" / row["name"]).is_dir()]
    main = "trained_tree" if "trained_tree" in grown else (grown or [rows[-1]["name"]])[0]
    seconds = summary.get("seconds")
    facts = [
        ("Model", summary.get("model")),
        ("Trained editor", summary.get("policy")),
        ("Editor at an endpoint", summary.get("editor_endpoint")),
        ("Model that answers", summary.get("student")),
        ("Environments", summary.get("environments")),
        ("Edits per environment", summary.get("edits")),
        ("Seed", summary.get("seed")),
        ("Time", None if seconds is None else duration(seconds)),
    ]
    return template.render(
        "evolution.html",
        title=summary.get("name") or workdir.resolve().name,
        headline=_headline(rows, main),
        facts=[(name, str(value)) for name, value in facts if value is not None],
        rows=rows,
        measures=MEASURES,
        measure=_measure,
        curves=[row for row in rows if row.get("curve")],
        percent=percent,
        points=plots.points,
        paired=summary.get("paired") or [],
        main=main,
        trees=_trees(workdir, main) if grown else [],
        command=summary.get("command"),
        config=template.config_rows(config),
        versions=summary.get("versions") or {},
        workdir=workdir.resolve().name,
    )


def evolution_svg(summary: Mapping[str, Any]) -> str:
    """Returns the scores of a `summary.json` by the number of edits, as a complete SVG file.

    Each variant that writes edits is a line: the score of the instruction that other problems chose among those written
    so far. A method has the same colour and points with every editor.

    Raises:
      UserError: no variant of the summary writes edits.
    """
    rows = [row for row in summary.get("evolution") or () if row.get("curve")]
    if not rows:
        raise UserError(
            "the summary has no variant that writes edits; it must be that of a run of `selfadapt evaluate` with "
            "config.protocol.name=evolve and an editor in config.protocol.variants"
        )
    kinds = _kinds([row["name"] for row in rows])
    names = [row["name"].replace("_", " ") for row in rows]
    found = [[(point["edits"], point["honest"]) for point in row["curve"]] for row in rows]
    legend, under = plots.legend(list(zip(kinds, names, strict=True)), _WIDTH - 24)
    left, right, first, end = 52, _WIDTH - 30, under + 40, under + 294
    last = max(edits for line in found for edits, _ in line)
    bottom, top = svg.axis([score for line in found for _, score in line], shares=True)
    x, y = svg.scale(0, max(last, 1), left + 12, right), svg.scale(bottom, top, end, first)
    parts = [f'<g transform="translate(12 4)">{legend}</g>']
    parts.append(svg.text(12, first - 14, "problems of the holdout answered right", "soft"))
    parts.append(plots.levels(y, svg.ticks(bottom, top), left, right, lambda value, digits: f"{value:.{digits}%}"))
    for edits in range(0, last + 1, max(1, math.ceil(last / 8))):
        parts.append(svg.text(x(edits), end + 20, str(edits), "soft number", "middle"))
    parts.append(svg.text((left + right) / 2, end + 40, "edits written for each environment", "soft", "middle"))
    for kind, line in zip(kinds, found, strict=True):
        parts.append(plots.series(kind, [(x(edits), score, None) for edits, score in line], y))
    spoken = "; ".join(
        f"{name}: {', '.join(f'{edits} edits {percent(score)}' for edits, score in line)}"
        for name, line in zip(names, found, strict=True)
    )
    return svg.drawing(_WIDTH, end + 54, "Scores by the number of edits", spoken, parts, svg.style())


def _kinds(names: Sequence[str]) -> list[str]:
    """Returns the CSS classes of variants' lines: one for each method, and those of the untrained editor pale."""
    parts = [name.partition("_") for name in names]
    methods = list(dict.fromkeys(method for _, _, method in parts))
    several = len({editor for editor, _, _ in parts}) > 1
    return [
        _LINES[min(methods.index(method), len(_LINES) - 1)] + (" pale" if several and editor == "untrained" else "")
        for editor, _, method in parts
    ]


def _trees(workdir: pathlib.Path, variant: str) -> list[dict[str, Any]]:
    """Returns the trees of a variant to show: evenly spaced from the largest gain to the smallest."""
    found = read_json(workdir / "environments.json", "the environments.json of a run of `selfadapt evaluate`")
    trees = []
    for each in found:
        if each["variant"] == variant:
            grown = Tree.load(workdir / "trees" / variant / each["environment"] / "tree.json")
            trees.append((each["environment"], grown, (grown.best().performance or 0) - (grown.root.performance or 0)))
    trees.sort(key=lambda each: -each[2])
    count = min(TREES, len(trees))
    chosen = [trees[round(place * (len(trees) - 1) / max(count - 1, 1))] for place in range(count)]
    return [
        {
            "environment": id,
            "gain": gain,
            "draw": functools.partial(_drawn, grown),
            "differences": markupsafe.Markup(tree.differences_html(grown)),
        }
        for id, grown, gain in chosen
    ]


def _drawn(grown: Tree, width: int) -> markupsafe.Markup:
    return markupsafe.Markup(tree.tree_plot(grown, width))


def _measure(row: Mapping[str, Any], name: str) -> tuple[str, str]:
    """Returns a measure of a variant, and its interval, as texts."""
    found, write = row[name], plots.points if name == "optimism" else percent
    low, high = found.get("low"), found.get("high")
    return write(found["mean"]), "" if low is None or high is None else f"{write(low)} to {write(high)}"


def _headline(rows: Sequence[Mapping[str, Any]], main: str) -> tuple[str, str]:
    """Returns the result of a variant as a sentence, and its optimism as a line of figures."""
    row = next(row for row in rows if row["name"] == main)
    honest, best, optimism = (_measure(row, name)[0] for name in MEASURES)
    start = next((f", {_measure(each, 'honest')[0]} without an edit" for each in rows if each["name"] == "none"), "")
    figures = f"The best instruction scores {best} on the problems that chose it, an optimism of {optimism} points."
    return f"{main.replace('_', ' ')}: {honest} right with the instruction that other problems chose{start}", figures
