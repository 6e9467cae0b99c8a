"""The page about continued pretraining: accuracy against the number of passages as a curve, and tables."""

from __future__ import annotations

import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import markupsafe

from selfadapt.errors import UserError
from selfadapt.report import data, plots, svg, template
from selfadapt.report.retention import percent
from selfadapt.telemetry.progress import duration

# The kind of a variant's line in the plots' style sheet; further ones, of files, take turns.
_KINDS = {
    "policy": "held-out",
    "untrained": "best",
    "passage": "mean-reward",
    "none": "baseline",
    "oracle": "oracle dots",
}
_GIVEN = 3
_NEEDED = ("size", "accuracy", "before", "gain")


def render(summary: dict[str, Any], config: dict[str, Any], workdir: pathlib.Path) -> str:
    """Returns the page about a run.

    Args:
      summary: the contents of `summary.json` (`selfadapt.protocols.pretraining`).
      config: those of `config.json`.
      workdir: the run's workdir, for its name.

    Raises:
      UserError: the summary has no variants or no sizes, or a part of one is missing.
    """
    rows: list[dict[str, Any]] = summary["pretraining"] or [{}]
    for index, row in enumerate(rows):
        where = f"{workdir / 'summary.json'}: pretraining[{index}]"
        if missing := [name for name in ("name", "sizes") if not row.get(name)]:
            raise UserError(f"{where} has no {missing[0]!r}")
        for each in row["sizes"]:
            if missing := [name for name in _NEEDED if name not in each]:
                raise UserError(f"{where}: a size has no {missing[0]!r}")
    main = next((row for row in rows if row["name"] == "policy"), rows[-1])
    seconds = summary.get("seconds")
    facts = [
        ("Model", summary.get("policy") or summary.get("model")),
        ("Trained", {"lora": "adapters", "all": "all weights"}.get(summary.get("train", ""))),
        ("Edits per passage", summary.get("edits")),
        ("Seed", summary.get("seed")),
        ("Time", None if seconds is None else duration(seconds)),
    ]
    return template.render(
        "pretraining.html",
        title=summary.get("name") or workdir.resolve().name,
        headline=_headline(main),
        facts=[(name, str(value)) for name, value in facts if value is not None],
        rows=rows,
        sizes=[str(each["size"]) for each in main["sizes"]],
        draw=lambda width: markupsafe.Markup(curve(rows, width)),
        label=data.label,
        share=_share,
        percent=percent,
        points=plots.points,
        paired=summary.get("paired") or [],
        problems=_problems(rows),
        command=summary.get("command"),
        config=template.config_rows(config),
        versions=summary.get("versions") or {},
        workdir=workdir.resolve().name,
    )


def curve(rows: Sequence[Mapping[str, Any]], width: int) -> str:
    """Draws accuracies against the number of passages learned together, on a logarithmic axis.

    Args:
      rows: the variants, each with its `name` and `sizes`.
      width: pixels.
    """
    kinds, given = [], 0
    for row in rows:
        given += row["name"] not in _KINDS
        kinds.append(_KINDS.get(row["name"], f"given{(given - 1) % _GIVEN + 1}"))
    names = [data.label(row["name"])[0] for row in rows]
    sizes = sorted({each["size"] for row in rows for each in row["sizes"]})
    values = [each["accuracy"] for row in rows for each in row["sizes"]]
    bottom, top = svg.axis([v["mean"] + side * (v.get("stderr") or 0) for v in values for side in (-1, 1)], True)
    legend, under = plots.legend(list(zip(kinds, names, strict=True)), width)
    left, right = 46, width - 22
    first, end = under + 12, under + (190 if width < plots.NARROW else 270)
    y = svg.scale(bottom, top, end, first)
    low, high = math.log(sizes[0]), math.log(max(sizes[-1], sizes[0] + 1))
    place = svg.scale(low - 0.1 * (high - low), high + 0.1 * (high - low), left, right)
    parts = [legend, plots.levels(y, svg.ticks(bottom, top), left, right, _percent_of_axis)]
    for size in sizes:
        parts.append(svg.text(place(math.log(size)), end + 20, str(size), "soft number", "middle"))
    parts.append(svg.text((left + right) / 2, end + 40, "passages learned together", "soft", "middle"))
    for kind, row in zip(kinds, rows, strict=True):
        points = [
            (place(math.log(each["size"])), each["accuracy"]["mean"], each["accuracy"].get("stderr"))
            for each in row["sizes"]
        ]
        parts.append(plots.series(kind, points, y))
    spoken = "; ".join(
        f"{name}: " + ", ".join(f"{each['size']} passages {percent(each['accuracy']['mean'])}" for each in row["sizes"])
        for name, row in zip(names, rows, strict=True)
    )
    return svg.drawing(width, end + 50, "Accuracy by passages", spoken, parts)


def _percent_of_axis(value: float, digits: int) -> str:
    return f"{100 * value:.{digits}f}%"


def _share(found: Mapping[str, Any]) -> tuple[str, str]:
    """Returns a mean and its interval as texts."""
    low, high = found.get("low"), found.get("high")
    return percent(found.get("mean")), "" if low is None or high is None else f"{percent(low)} to {percent(high)}"


def _headline(row: Mapping[str, Any]) -> tuple[str, str]:
    """Returns the result of a variant at its largest size as a sentence, and its gain as a line of figures."""
    last = row["sizes"][-1]
    (value, _), (before, _) = _share(last["accuracy"]), _share(last["before"])
    gain, low, high = (last["gain"].get(name) for name in ("mean", "low", "high"))
    ends = "" if low is None or high is None else f", 95% interval {plots.points(low)} to {plots.points(high)}"
    name = data.label(row["name"])[0]
    return (
        f"{name}: {value} right after one update on {last['size']} passages; {before} before",
        f"Gain: {plots.points(gain)} points{ends}, over passages.",
    )


def _problems(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns a line for each reason that updates or edits failed."""
    lines = []
    for row in rows:
        for each in row["sizes"]:
            where = f"{row['name']}, n = {each['size']}"
            lines += [f"{where}: {n} updates failed: {why}." for why, n in (each.get("failed") or {}).items()]
            lines += [f"{where}: {n} edits not applied: {why}." for why, n in (each.get("rejected") or {}).items()]
    return lines
