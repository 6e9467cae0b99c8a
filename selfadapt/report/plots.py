"""The report's plots as SVG text. Each is drawn for a width in pixels; colours come from `plots.css`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from selfadapt.report import data, svg
from selfadapt.types import UNTRAINED, is_policy_row

NARROW = 480  # pixels; below this, labels are above their bars
KINDS = 8  # kinds of line with separate colours; the last is for all others


def ladder_svg(summary: dict[str, Any]) -> str:
    """Returns the ladder of a `summary.json` as a complete SVG file, for a README.

    It has a light and a dark form, chosen by the reader's preference.

    Raises:
      UserError: the summary has no ladder, or a row of it is malformed.
    """
    return ladder(data.check_summary(summary), 760, style=svg.style())


def curve_svg(summary: dict[str, Any]) -> str:
    """Returns the learning curve of a `summary.json` with at least one round as a complete SVG file, like `ladder_svg`.

    Raises:
      UserError: the summary has no ladder, or a row of it is malformed.
    """
    return curve(data.check_summary(summary), 760, style=svg.style())


def ladder(summary: dict[str, Any], width: int, style: str = "") -> str:
    """Draws the ladder: a bar, a dot and a whisker of one standard error per row.

    Args:
      summary: a checked summary.
      width: pixels.
      style: a style sheet to include, for a separate file.
    """
    rows, number = summary["ladder"], formatter(summary)
    bottom, top = svg.axis(
        [row["mean"] + side * (row.get("stderr") or 0) for row in rows for side in (-1, 1)], data.is_share(summary)
    )
    narrow = width < NARROW
    pad = 16 if style else 2
    left, right = (pad + 14, width - pad - 18) if narrow else (pad + 150, width - pad - 118)
    height, first = (54, pad) if narrow else (42, pad + 2)
    x = svg.scale(bottom, top, left, right)
    end = first + height * len(rows)
    parts = [svg.grid(x, svg.ticks(bottom, top), first, end, number)]
    for index, row in enumerate(rows):
        mean, error, y = row["mean"], row.get("stderr"), first + index * height
        kind = {"oracle": "oracle"}.get(row["name"], "policy" if is_policy_row(row["name"]) else "reference")
        value = number(mean) + (f" ± {number(error, unit=False)}" if error is not None else "")
        name = svg.cut(data.label(row["name"])[0], 18)
        if narrow:
            middle = y + 36.0
            parts.append(
                svg.text(pad, y + 18, name, "strong halo")
                + svg.text(width - pad, y + 18, value, "number halo", anchor="end")
            )
        else:
            middle = y + height / 2
            parts.append(svg.text(left - 14, middle + 5, name, "strong", anchor="end"))
            parts.append(svg.text(width - pad, middle + 5, value, "number", anchor="end"))
        start, stop = sorted((x(0), x(mean)))
        bar = f'<rect class="bar" x="{start:.1f}" y="{middle - 8:.1f}" width="{stop - start:.1f}" height="16" rx="2"/>'
        parts.append(f'<g class="{kind}">{bar}{_whisker(x, mean, error, middle)}{svg.dot(x(mean), middle)}</g>')
    spoken = "; ".join(f"{data.label(row['name'])[0]} {number(row['mean'])}" for row in rows)
    return svg.drawing(width, end + 26 + pad, "The ladder", spoken, parts, style)


def differences(summary: dict[str, Any], width: int) -> str:
    """Draws the paired differences with their 95% intervals around a line at zero."""
    rows, number = summary["paired"], formatter(summary, signed=True)
    ends = [row[field] for row in rows for field in ("difference", "low", "high") if row.get(field) is not None]
    bottom, top = svg.axis(ends, data.is_share(summary))
    narrow = width < NARROW
    left, right = (22, width - 22) if narrow else (250, width - 150)
    height, start, stop = (78, 2, width - 2) if narrow else (52, left - 16, width - 2)
    anchor = "start" if narrow else "end"
    x = svg.scale(bottom, top, left, right)
    end = 4 + height * len(rows)
    parts = [svg.grid(x, svg.ticks(bottom, top), 4, end, number)]
    parts.append(f'<line class="axis" x1="{x(0):.1f}" x2="{x(0):.1f}" y1="4" y2="{end}"/>')
    for index, row in enumerate(rows):
        y, low, high = 4 + index * height, row.get("low"), row.get("high")
        known = low is not None and high is not None
        clear = known and (low > 0 or high < 0)
        middle = y + (58 if narrow else height / 2)
        first, second = (y + 18, y + 36) if narrow else (middle - 4, middle + 14)
        parts.append(svg.text(start, first, svg.cut(data.label(row["a"])[0], 27), "strong halo", anchor))
        parts.append(
            svg.text(start, second, svg.cut(f"minus {data.label(row['b'])[0].lower()}", 32), "soft halo", anchor)
        )
        parts.append(svg.text(stop, first, number(row["difference"]), "strong number halo", "end"))
        if known:
            parts.append(svg.text(stop, second, f"{number(low)} to {number(high)}", "soft number halo", "end"))
        whisker = svg.whisker(x(low), x(high), middle) if known else ""
        parts.append(
            f'<g class="{"policy" if clear else "unclear"}">{whisker}{svg.dot(x(row["difference"]), middle)}</g>'
        )
    spoken = "; ".join(f"{row['a']} minus {row['b']} {number(row['difference'])}" for row in rows)
    return svg.drawing(width, end + 28, "Paired differences", spoken, parts)


def curve(summary: dict[str, Any], width: int, style: str = "") -> str:
    """Draws rewards over rounds against the policy that wrote the edits (0 is the untrained one).

    The training rewards of round r belong to policy r - 1, which wrote its edits; the held-out value of
    the ladder's row `round<r>` belongs to policy r. The oracle's held-out reward is a line across.
    """
    number = formatter(summary)
    shown = _series(summary)
    bottom, top = svg.axis(
        [value + side * (error or 0) for _, _, points in shown for _, value, error in points for side in (-1, 1)],
        data.is_share(summary),
    )
    last = max(policy for _, _, points in shown for policy, _, _ in points)
    names, under = legend([(kind, text) for kind, text, _ in shown], width)
    left, right = 46, width - 22
    first, end = under + 12, under + (190 if width < NARROW else 270)
    x = svg.scale(-0.12 * max(last, 1), 1.08 * max(last, 1), left, right)
    y = svg.scale(bottom, top, end, first)
    parts = [names, levels(y, svg.ticks(bottom, top), left, right, number)]
    every = math.ceil((last + 1) / (4 if width < NARROW else 9))
    for policy in range(0, last + 1, every):
        parts.append(svg.text(x(policy), end + 20, f"round {policy}" if policy else "untrained", "soft", "middle"))
    parts.append(svg.text((left + right) / 2, end + 40, "policy that wrote the edits", "soft", "middle"))
    parts += [series(kind, [(x(policy), value, error) for policy, value, error in own], y) for kind, _, own in shown]
    spoken = "; ".join(
        f"{text}: {', '.join(f'policy {policy} {number(value)}' for policy, value, _ in points)}"
        for _, text, points in shown
    )
    return svg.drawing(width, end + 50, "Rewards over rounds", spoken, parts, style)


def has_curve(summary: dict[str, Any]) -> bool:
    """Whether there is anything to draw as a learning curve."""
    return bool(_series(summary))


def kinds(shares: Mapping[str, Sequence[float]], names: Sequence[str], width: int) -> str:
    """Draws one bar per policy, stacked from the shares of the kinds of line it writes.

    Args:
      shares: for each policy the share of each kind, in the order of `names`, summing to one.
      names: the kinds; a segment shows its kind's number, counted from one.
      width: pixels.
    """
    narrow = width < NARROW
    left, height = (0, 58) if narrow else (150, 44)
    parts = []
    for index, (policy, row) in enumerate(shares.items()):
        y, name = index * height, data.label(policy)[0]
        top = y + (22 if narrow else 6)
        parts.append(
            svg.text(0, y + 15, name, "strong")
            if narrow
            else svg.text(left - 14, top + 21, name, "strong", anchor="end")
        )
        start = float(left)
        for place, share in enumerate(row, start=1):
            size = share * (width - left)
            spoken = f"<title>{svg.escape(names[place - 1])}: {share:.1%}</title>"
            if size >= 1:
                parts.append(
                    f'<g>{spoken}<rect class="kind{place}" x="{start:.1f}" y="{top}" width="{max(size - 1.5, 1):.1f}" '
                    f'height="32"/></g>'
                )
            if size >= 16:
                parts.append(svg.text(start + size / 2 - 0.75, top + 21, str(place), "on-kind", anchor="middle"))
            start += size
    spoken = "; ".join(
        f"{data.label(policy)[0]}: "
        + ", ".join(f"{name} {share:.0%}" for name, share in zip(names, row, strict=True) if share)
        for policy, row in shares.items()
    )
    return svg.drawing(width, len(shares) * height, "Kinds of line", spoken, parts)


def formatter(summary: dict[str, Any], signed: bool = False) -> Callable[..., str]:
    """Returns how the run's values are written: shares in percent (differences in points), others as they are.

    What is returned takes a value, and optionally `digits` after the point and whether to write the `unit`.
    """

    def share(value: float, *, digits: int = 1, unit: bool = True) -> str:
        return points(value, digits) if signed else f"{100 * value:.{digits}f}{'%' if unit else ''}".replace("-", "−")

    def other(value: float, *, digits: int = 1, unit: bool = True) -> str:
        del digits, unit
        return f"{value:{'+' if signed and value else ''}.3g}".replace("-", "−")

    return share if data.is_share(summary) else other


def points(difference: float, digits: int = 1) -> str:
    """Returns a difference of shares in percentage points, with its sign.

    Example:
      >>> points(0.268), points(-0.0001), points(-0.02)
      ('+26.8', '0.0', '−2.0')
    """
    rounded = round(100 * difference, digits) or 0.0  # no sign on a zero
    return f"{rounded:{'+' if rounded else ''}.{digits}f}".replace("-", "−")


def _series(summary: dict[str, Any]) -> list[tuple[str, str, list[tuple[int, float, float | None]]]]:
    """Returns (kind, legend, [(policy, value, standard error)]) of every series that has a point."""
    held_out = [
        (0 if row["name"] == UNTRAINED else int(row["name"][5:]), row["mean"], row.get("stderr"))
        for row in summary["ladder"]
        if is_policy_row(row["name"])
    ]
    of_rounds = lambda field: [  # noqa: E731
        (row["round"] - 1, row[field], None) for row in summary["rounds"] if row.get(field) is not None
    ]
    series = [
        ("held-out", "held-out", held_out),
        ("best", "training, best of each task", of_rounds("reward_best")),
        ("mean-reward", "training, mean", of_rounds("reward_mean")),
        ("baseline", "training, baseline", of_rounds("baseline")),
    ]
    if not summary["rounds"]:
        return []
    last = max(policy for _, _, points in series for policy, _, _ in points)
    across = [
        (policy, row["mean"], None) for row in summary["ladder"] if row["name"] == "oracle" for policy in (0, last)
    ]
    series.append(("oracle", "oracle", across))
    return [(kind, text, sorted(points)) for kind, text, points in series if points]


def legend(items: Sequence[tuple[str, str]], width: int) -> tuple[str, int]:
    """Draws legend entries, (kind, text) each, in as many lines as they need; returns them and the y below."""
    parts, x, y = [], 0.0, 14
    for kind, text in items:
        size = 46 + 7.4 * len(text)
        if x and x + size > width:
            x, y = 0.0, y + 22
        parts.append(
            f'<g class="{kind}"><path class="series" d="M{x + 1:.1f} {y - 4} h30"/>{_mark(kind, x + 16, y - 4)}</g>'
        )
        parts.append(svg.text(x + 38, y, text, "legend"))
        x += size + 14
    return "".join(parts), y + 8


def levels(
    y: Callable[[float], float], ticks: Sequence[float], left: float, right: float, number: Callable[..., str]
) -> str:
    """Draws the horizontal lines of an axis, with their numbers to the left."""
    return "".join(
        f'<line class="grid" x1="{left}" x2="{right}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>'
        + svg.text(left - 7, y(tick) + 4, number(tick, digits=0), "soft number", anchor="end")
        for tick in ticks
    )


def series(kind: str, points: Sequence[tuple[float, float, float | None]], y: Callable[[float], float]) -> str:
    """Draws a line through points, each with a whisker of one standard error.

    Args:
      kind: the CSS class, which also determines the shape of the points; "pale" may stand after it.
      points: x in pixels, value, and standard error or `None` of each.
      y: maps values to pixels.
    """
    path = "M" + " L".join(f"{x:.1f} {y(value):.1f}" for x, value, _ in points)
    marks = "".join(_mark(kind, x, y(value)) for x, value, _ in points)
    errors = "".join(
        f'<path class="error" d="M{x:.1f} {y(value - error):.1f} V{y(value + error):.1f}"/>'
        for x, value, error in points
        if error
    )
    return f'<g class="{kind}"><path class="series" d="{path}"/>{errors}{marks}</g>'


def _mark(kind: str, x: float, y: float) -> str:
    """Draws a point whose shape identifies its series without colour; the oracle's line has none."""
    kind = kind.removesuffix(" pale")
    if kind == "oracle":
        return ""
    if kind == "held-out":
        return f'<circle class="point" cx="{x:.1f}" cy="{y:.1f}" r="5"/>'
    if kind == "best":
        return f'<path class="point" d="M{x:.1f} {y - 6:.1f} l5.5 10 h-11 z"/>'
    if kind == "mean-reward":
        return f'<rect class="point" x="{x - 4.5:.1f}" y="{y - 4.5:.1f}" width="9" height="9"/>'
    return f'<path class="point" d="M{x:.1f} {y - 5.5:.1f} l5.5 5.5 l-5.5 5.5 l-5.5 -5.5 z"/>'


def _whisker(x: Callable[[float], float], mean: float, error: float | None, y: float) -> str:
    return svg.whisker(x(mean - error), x(mean + error), y) if error else ""
