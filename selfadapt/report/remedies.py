"""Remedies for forgetting in a report: what is known just after an edit and at the end, with paired intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from selfadapt.errors import UserError
from selfadapt.report import plots, svg

# Measures, and how they are drawn and called.
SHOWN = {"at_the_end": ("policy", "after the last edit"), "just_learnt": ("reference", "just after a passage’s edit")}
COSTS = {
    "inner_updates": "inner updates",
    "optimizer_steps": "optimizer steps",
    "trained_tokens": "trained tokens",
}


def compared(rows: Sequence[Mapping[str, Any]], paired: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Returns the rows of variants that have remedies, each with its differences from that without one.

    Args:
      rows: rows of retention of a `summary.json`.
      paired: its differences.

    Returns:
      The rows, with a `label` and `differences`: for each measure its `difference`, `low` and `high`, where there are
      any.
    """
    remedied = {row["variant"] for row in rows if row.get("variant", row["name"]) != row["name"]}
    found = []
    for row in rows:
        if (variant := row.get("variant")) in remedied:
            own = {pair["measure"]: pair for pair in paired if (pair["a"], pair["b"]) == (row["name"], variant)}
            label = str(row["remedy"]).replace("_", " ")
            label = label if len(remedied) == 1 else f"{variant}, {label}"
            found.append({**row, "label": label, "differences": own})
    return found


def is_remedy(pair: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> bool:
    """Returns whether a difference is one between a remedy and its absence."""
    return any((row["name"], row.get("variant")) == (pair["a"], pair["b"]) for row in rows)


def remedies_svg(summary: Mapping[str, Any]) -> str:
    """Returns the drawing of a `summary.json` with remedies (see `drawing`) as a complete SVG file.

    Raises:
      UserError: no variant of the summary has a remedy.
    """
    rows = compared(summary.get("retention") or (), summary.get("paired") or ())
    if not rows:
        raise UserError(
            "the summary compares no remedies; run `selfadapt evaluate` with some in config.protocol.remedies"
        )
    return drawing(rows, 760, style=svg.style())


def drawing(rows: Sequence[Mapping[str, Any]], width: int, style: str = "") -> str:
    """Draws what is known just after an edit and after the last one: two dots for each remedy.

    Lines across the rows of a variant are its values without a remedy. The whisker of a dot is the 95% interval of its
    paired difference from there, around the dot: where it does not cross the line, the difference is clear.

    Args:
      rows: what `compared` returns.
      width: pixels.
      style: a style sheet to include, for a separate file, which also states what the axis is.
    """
    narrow = width < plots.NARROW
    pad = 16 if style else 0
    left, right = (22, width - 22) if narrow else (190, width - 22)
    height, first = (70 if narrow else 48), pad + 34
    end = first + height * len(rows)
    without = {row["variant"]: row for row in rows if row["name"] == row["variant"]}
    ends = [value for row in rows for measure in SHOWN for value in _ends(row, without, measure)]
    bottom, top = svg.axis(ends, shares=True)
    x = svg.scale(bottom, top, left, right)
    parts = [svg.grid(x, svg.ticks(bottom, top), first, end, _number)]
    for place, (kind, text) in enumerate(SHOWN.values()):
        start = pad + 6 + place * (140 if narrow else 190)
        parts.append(f'<g class="{kind}">{svg.dot(start, pad + 12)}</g>' + svg.text(start + 12, pad + 17, text, "soft"))
    for index, row in enumerate(rows):
        y = first + index * height
        middle = y + (44 if narrow else height / 2)
        label = svg.cut(row["label"], 34 if narrow else 22)
        above = svg.text(left - 20, y + 20, label, "strong halo")
        parts.append(above if narrow else svg.text(left - 14, middle + 5, label, "strong halo", "end"))
        for lane, (measure, (kind, _)) in zip((-9, 9), SHOWN.items(), strict=True):
            mean, low, high = _ends(row, without, measure)
            line = x(_mean(without.get(row["variant"], row), measure))
            across = f'<path class="error" stroke-dasharray="3 3" d="M{line:.1f} {y} V{y + height}"/>'
            whisker = svg.whisker(x(low), x(high), middle + lane) if low < high else ""
            parts.append(f'<g class="{kind}">{across}{whisker}{svg.dot(x(mean), middle + lane)}</g>')
    spoken = "; ".join(
        f"{row['label']}: " + ", ".join(f"{_number(_mean(row, name))} {text}" for name, (_, text) in SHOWN.items())
        for row in rows
    )
    end += 28
    if style:
        note = "questions answered right; whiskers: the paired difference from the dashed line, 95%"
        parts.append(svg.text((left + right) / 2, end + 12, note, "soft", "middle"))
        end += 12 + pad
    return svg.drawing(width, end, "Remedies for forgetting", spoken, parts, style)


def _mean(row: Mapping[str, Any], measure: str) -> float:
    return row["measures"][measure]["mean"]


def _ends(row: Mapping[str, Any], without: Mapping[str, Mapping[str, Any]], measure: str) -> tuple[float, float, float]:
    """Returns a row's mean, and the ends of its whisker; both are the mean if there is none."""
    mean, pair = _mean(row, measure), row["differences"].get(measure) or {}
    if pair.get("low") is None or pair.get("high") is None or row["variant"] not in without:
        return mean, mean, mean
    start = _mean(without[row["variant"]], measure)
    return mean, start + pair["low"], start + pair["high"]


def _number(value: float, digits: int = 1) -> str:
    return f"{100 * value:.{digits}f}%"
