"""Pictures of ARC's grids as SVG text, and the check of those that `edits.jsonl` holds."""

from __future__ import annotations

import re
from typing import Any

from selfadapt.errors import UserError

# Colours 0 to 9, as the public ARC viewers show them.
COLOURS = (
    *("#000000", "#1e78d2", "#e5383b", "#2fb344", "#f5d033"),
    *("#9a9fa5", "#d63bb8", "#f58231", "#7fdbff", "#7a1f32"),
)
_CELL, _WIDEST = 14, 132  # pixels
_GRID = re.compile(r"[0-9]{1,30}(\n[0-9]{1,30}){0,29}")


def grid_svg(grid: str, name: str) -> str:
    """Draws a grid.

    Args:
      grid: its rows, as lines of digits.
      name: what a screen reader calls it; its rows follow.
    """
    rows = grid.split("\n")
    height, width = len(rows), len(rows[0])
    runs: dict[str, list[str]] = {}
    for y, row in enumerate(rows):
        for run in re.finditer(r"(.)\1*", row):
            runs.setdefault(run[1], []).append(f"M{run.start()} {y}h{len(run[0])}v1h-{len(run[0])}z")
    cells = "".join(f'<path fill="{COLOURS[int(colour)]}" d="{"".join(d)}"/>' for colour, d in runs.items())
    lines = "".join(f"M{x} 0v{height}" for x in range(1, width)) + "".join(f"M0 {y}h{width}" for y in range(1, height))
    cell = min(_CELL, _WIDEST / width)
    return (
        f'<svg class="cells" role="img" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width * cell:.0f}" height="{height * cell:.0f}" aria-label="{name}: {"; ".join(rows)}">{cells}'
        f'<path d="{lines}"/></svg>'
    )


def check_grids(grids: Any, where: str) -> None:
    """Refuses what cannot be drawn as a task's grids (`selfadapt.domains.arc.Arc.record`).

    Raises:
      UserError: a part is missing or is no grid; the message begins with `where`.
    """

    def grid(value: Any) -> bool:
        return isinstance(value, str) and bool(_GRID.fullmatch(value)) and len(set(map(len, value.split("\n")))) == 1

    try:
        right = all(len(pair) == 2 and all(map(grid, pair)) for pair in grids["pairs"]) and all(
            all(map(grid, (test["input"], test["truth"], *test["attempts"]))) for test in grids["tests"]
        )
    except (TypeError, KeyError):
        right = False
    if not right:
        raise UserError(
            f"{where}: 'grids' must have 'pairs' of grids, and 'tests' with 'input', 'truth' and 'attempts'; a grid is "
            "lines of digits"
        )
