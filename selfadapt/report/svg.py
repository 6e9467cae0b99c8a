"""Parts that drawings share, as SVG text; lengths are in pixels and colours come from `plots.css`."""

from __future__ import annotations

import html
import math
import pathlib
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Sequence


def drawing(width: float, height: float, title: str, spoken: str, parts: Sequence[str], style: str = "") -> str:
    """Joins the parts of a drawing; `spoken` is the text for screen readers, `style` a style sheet to include."""
    alone = f'<style>{style}</style><rect class="paper" width="100%" height="100%" rx="8"/>' if style else ""
    whole = (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" viewBox="0 0 {width:g} {height:g}" width="{width:g}" '
        f'height="{height:g}" aria-label="{escape(f"{title}: {spoken}")}">{alone}{"".join(parts)}</svg>'
    )
    ElementTree.fromstring(whole)  # a drawing that no viewer could open is a fault of the program
    return whole


def style() -> str:
    """Returns the style sheet of drawings that are separate files; it has a light and a dark form."""
    return (pathlib.Path(__file__).parent / "plots.css").read_text(encoding="utf-8")


def text(x: float, y: float, text: str, style: str, anchor: str = "start") -> str:
    """Draws a text; `style` names its classes, `anchor` is the end of it that `x` gives."""
    return f'<text class="{style}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def cut(text: str, letters: int) -> str:
    """Returns a text of at most so many letters; an ellipsis replaces what is cut off."""
    return text if len(text) <= letters else f"{text[: letters - 1].rstrip()}…"


def escape(text: str) -> str:
    """Returns a text for XML, on one line: control characters become the replacement character."""
    return html.escape("".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text))


def dot(x: float, y: float) -> str:
    """Draws a value as a point."""
    return f'<circle class="mean" cx="{x:.1f}" cy="{y:.1f}" r="5"/>'


def whisker(low: float, high: float, y: float) -> str:
    """Draws an interval as a line with ends."""
    caps = f"M{low:.1f} {y - 5:.1f} v10 M{high:.1f} {y - 5:.1f} v10"
    return f'<path class="error" d="M{low:.1f} {y:.1f} H{high:.1f} {caps}"/>'


def scale(low: float, high: float, start: float, stop: float) -> Callable[[float], float]:
    """Maps low..high to start..stop; values outside, such as a whisker past 100%, are drawn at the end."""
    return lambda value: start + (min(max(value, low), high) - low) / (high - low) * (stop - start)


def axis(values: Sequence[float], shares: bool) -> tuple[float, float]:
    """Returns the ends of an axis that includes the values and zero; one of shares ends at one."""
    bottom, top = 0.0 - _nice_top(-min(values)), _nice_top(max(values))
    if shares:
        bottom, top = max(bottom, -1.0), min(top, 1.0)
    return (bottom, top) if top > bottom else (0.0, 1.0)


def ticks(low: float, high: float) -> list[float]:
    """Returns about five round numbers from low to high, zero among them."""
    step = _round_up((high - low) / 5, (1, 2, 2.5, 5, 10))
    return [count * step for count in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def grid(
    x: Callable[[float], float], ticks: Sequence[float], top: float, bottom: float, number: Callable[..., str]
) -> str:
    """Draws the vertical lines of an axis, with their numbers below."""
    return "".join(
        f'<line class="grid" x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="{top}" y2="{bottom}"/>'
        + text(x(tick), bottom + 18, number(tick, digits=0), "soft number", anchor="middle")
        for tick in ticks
    )


def _nice_top(value: float) -> float:
    """Returns a round number that is not below a positive value, and 0 for any other."""
    return _round_up(value, (1, 1.5, 2, 3, 4, 5, 6, 8, 10))


def _round_up(value: float, steps: Sequence[float]) -> float:
    """Returns the least of `steps` times a power of ten that is not below a positive value, and 0 for any other."""
    if value <= 0:
        return 0.0
    power = 10 ** math.floor(math.log10(value))
    return next(step * power for step in steps if step * power >= value * (1 - 1e-9))
