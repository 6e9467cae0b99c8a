"""The page about a continual run: the retention matrices as heat maps, measures and differences as tables."""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import markupsafe

from selfadapt.errors import UserError
from selfadapt.report import plots, remedies, svg, template
from selfadapt.telemetry.progress import duration

MEASURES = {
    "before": "before any edit",
    "just_learnt": "just after a passage's edit",
    "at_the_end": "after the last edit",
    "forgetting": "forgetting",
    "backward_transfer": "backward transfer",
    "net_change": "net change",
}
_SHARES = ("before", "just_learnt", "at_the_end")  # the others are differences
_NEEDED = ("name", "mean", "stderr", "measures")


def render(summary: dict[str, Any], config: dict[str, Any], workdir: pathlib.Path) -> str:
    """Returns the page about a run.

    Args:
      summary: the contents of `summary.json` (`selfadapt.protocols.continual`).
      config: those of `config.json`.
      workdir: the run's workdir, for its name.

    Raises:
      UserError: the summary has no retention matrix, or a part of one is missing.
    """
    rows: list[dict[str, Any]] = summary["retention"] or [{}]
    for index, row in enumerate(rows):
        if missing := [name for name in _NEEDED if name not in row]:
            raise UserError(f"{workdir / 'summary.json'}: retention[{index}] has no {missing[0]!r}")
    main = next((row for row in rows if row["name"] == "policy"), rows[-1])
    paired = summary.get("paired") or []
    compared = remedies.compared(rows, paired)
    seconds = summary.get("seconds")
    facts = [
        ("Model", summary.get("policy") or summary.get("model")),
        ("Streams", summary.get("streams")),
        ("Passages per stream", summary.get("passages")),
        ("Seed", summary.get("seed")),
        ("Time", None if seconds is None else duration(seconds)),
    ]
    return template.render(
        "retention.html",
        title=summary.get("name") or workdir.resolve().name,
        headline=_headline(main),
        facts=[(name, str(value)) for name, value in facts if value is not None],
        rows=[row | {"draw": _drawing(row)} for row in rows],
        measures=MEASURES,
        measure=_measure,
        points=plots.points,
        remedies=compared,
        draw_remedies=lambda width: markupsafe.Markup(remedies.drawing(compared, width)),
        costs=remedies.COSTS,
        paired=[pair for pair in paired if not remedies.is_remedy(pair, rows)],
        deviations=lambda row: [
            ("over all streams", row.get("std")),
            ("mean of the runs", row.get("std_mean_of_runs")),
        ],
        percent=percent,
        command=summary.get("command"),
        config=template.config_rows(config),
        versions=summary.get("versions") or {},
        workdir=workdir.resolve().name,
    )


def retention_svg(row: Mapping[str, Any]) -> str:
    """Returns the heat map of a retention matrix as a complete SVG file; see `heat_map`."""
    return heat_map(row, 640, style=svg.style())


def heat_map(row: Mapping[str, Any], width: int, style: str = "") -> str:
    """Draws a retention matrix: a row of cells after each step, a column for each passage.

    Each cell has its value in percent as a number; the darker it is, the higher. The cells of passages that have just
    been learned have an outline.

    Args:
      row: `name`, and `mean` and `stderr` as rows of shares, `None` where a passage is not asked about.
      width: pixels.
      style: a style sheet to include, for a separate file, which also states what the cells are.
    """
    means, errors = row["mean"], row["stderr"]
    columns = len(means[0])
    pad = 16 if style else 0
    left, top = pad + 58, pad + 44
    side = min(64.0, (width - left - pad - 4) / columns)
    height = min(side, 34.0)
    end = top + height * len(means) + 4
    parts = [
        svg.text(left, pad + 14, "passage", "soft"),
        svg.text(pad, top - 8, "edits", "soft"),
        *(svg.text(left + side * (c + 0.5), top - 8, str(c + 1), "soft number", "middle") for c in range(columns)),
    ]
    for r, (values, own) in enumerate(zip(means, errors, strict=True)):
        y = top + r * height
        parts.append(svg.text(left - 14, y + height / 2 + 5, str(r), "number", "end"))
        for c, (value, error) in enumerate(zip(values, own, strict=True)):
            if value is None:
                continue
            x = left + side * c
            kind = "learnt" if r == c + 1 else "cell"
            spoken = f"after {r} edits, passage {c + 1}: {percent(value)}"
            spoken += "" if error is None else f" ± {percent(error)}"
            place = f'x="{x + 1:.1f}" y="{y + 1:.1f}" width="{side - 2:.1f}" height="{height - 2:.1f}" rx="2"'
            parts.append(
                f'<g class="heat"><title>{svg.escape(spoken)}</title>'
                f'<rect class="{kind}" {place} fill-opacity="{0.04 + 0.5 * value:.3f}"/></g>'
            )
            parts.append(svg.text(x + side / 2, y + height / 2 + 5, f"{100 * value:.0f}", "number", "middle"))
    spoken = "; ".join(
        f"after {r} edits {', '.join(percent(value) for value in values if value is not None)}"
        for r, values in enumerate(means)
    )
    if style:
        note = "percent of questions answered right; outlined: the passage that was just learned"
        parts.append(svg.text(pad, end + 18, note, "soft"))
        end += 18 + pad
    return svg.drawing(width, end, f"Retention, {row['name']}", spoken, parts, style)


def percent(value: float | None) -> str:
    """Returns a share in percent; a dash where there is none.

    >>> percent(0.2474), percent(None)
    ('24.7%', '–')
    """
    return "–" if value is None else f"{100 * value:.1f}%"


def _drawing(row: Mapping[str, Any]) -> Any:
    return functools.partial(_marked, row)


def _marked(row: Mapping[str, Any], width: int) -> markupsafe.Markup:
    return markupsafe.Markup(heat_map(row, width))


def _measure(row: Mapping[str, Any], name: str) -> tuple[str, str]:
    """Returns a measure of a row, and its interval, as texts."""
    found = row["measures"].get(name) or {}
    write: Callable[[float], str] = percent if name in _SHARES else plots.points
    low, high = found.get("low"), found.get("high")
    if found.get("mean") is None:
        return "–", ""
    return write(found["mean"]), "" if low is None or high is None else f"{write(low)} to {write(high)}"


def _headline(row: Mapping[str, Any]) -> tuple[str, str]:
    """Returns the result of a variant as a sentence, and its forgetting as a line of figures."""
    learnt, end, before = (_measure(row, name)[0] for name in ("just_learnt", "at_the_end", "before"))
    forgetting, ends = _measure(row, "forgetting")
    count = len(row["mean"][0])
    figures = f"Forgetting: {forgetting} points{f', 95% interval {ends}' if ends else ''}, over streams."
    return f"{learnt} right just after a passage’s edit, {end} after {count} edits; {before} before any", figures
