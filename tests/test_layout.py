"""Imports between the rooms of the package go one way (docs/architecture.md, "Rooms")."""

import ast
import pathlib

ROOT = pathlib.Path(__file__).parents[1]
# From the top down; a room imports only from lower floors.
FLOORS = (
    ("__main__",),
    ("cli",),
    ("experiment", "plan"),
    ("loop", "improve", "checkpoint", "analyze", "report", "telemetry"),
    ("domains", "policy", "ledger"),
    ("graders", "data", "programs"),
    ("models", "config", "defaults", "metrics", "seal_results"),
    ("sinks", "store"),
    ("files", "distributed", "mesh"),
    ("watchdog",),
    ("types", "errors", "meter", "compilation", "chips"),
)
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}


def imports(file):
    """Yields the rooms that a file imports from."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "selfadapt":
            inside = node.module.split(".")[1:2]
            yield from inside or (alias.name for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name.split(".")[1] for alias in node.names if alias.name.startswith("selfadapt."))


def test_imports_go_down_the_floors_and_never_up():
    wrong = []
    for file in sorted((ROOT / "selfadapt").rglob("*.py")):
        place = file.relative_to(ROOT / "selfadapt").with_suffix("").parts[0]
        if place == "__init__":
            continue  # the lazy front door names all rooms
        assert place in FLOOR, f"selfadapt/{place} stands on no floor: give it one in {pathlib.Path(__file__).name}"
        others = [room for room in imports(file) if room != place]
        wrong += [f"{file.name} imports {room}" for room in others if FLOOR[room] <= FLOOR[place]]
    assert not wrong


def test_every_room_is_described():
    described = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert [room for room in FLOOR if room not in described and room != "__main__"] == []
