"""Imports between the modules of the package go one way (docs/architecture.md, "Layout")."""

import ast
import importlib
import pathlib

import selfadapt

ROOT = pathlib.Path(__file__).parents[1]
# From the top down; a module or folder imports only from those below it.
LAYERS = (
    ("__main__",),
    ("cli",),
    ("experiment", "plan"),
    ("protocols",),
    ("evaluate", "report", "seal"),
    ("loop", "functional"),
    ("outer",),
    ("domains",),
    ("search",),
    ("checkpoint",),
    ("engine",),
    ("graders", "data"),
    ("models",),
    ("telemetry",),
    ("parallel",),
    ("config",),
    ("defaults", "files", "templates"),
    ("presets",),
    ("types",),
    ("errors", "allocator"),
)
LAYER = {name: layer for layer, names in enumerate(LAYERS) for name in names}


def imports(file):
    """Yields the top-level modules and folders that a file imports from."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "selfadapt":
            inside = node.module.split(".")[1:2]
            yield from inside or (alias.name for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name.split(".")[1] for alias in node.names if alias.name.startswith("selfadapt."))


def test_imports_go_down_the_layers_and_never_up():
    wrong = []
    for file in sorted((ROOT / "selfadapt").rglob("*.py")):
        place = file.relative_to(ROOT / "selfadapt").with_suffix("").parts[0]
        if place == "__init__":
            continue  # its lazy imports name every layer
        assert place in LAYER, f"selfadapt/{place} is in no layer: add it to {pathlib.Path(__file__).name}"
        others = [name for name in imports(file) if name != place]
        wrong += [f"{file} imports {name}" for name in others if LAYER[name] <= LAYER[place]]
    assert not wrong


def test_every_module_is_described():
    described = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert [name for name in LAYER if name not in described and name != "__main__"] == []


def test_type_checkers_see_the_public_names_where_they_are():
    tree = ast.parse((ROOT / "selfadapt" / "__init__.py").read_text(encoding="utf-8"))
    (checked,) = (node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    seen = {alias.asname: node.module for node in checked.body for alias in node.names}
    assert set(seen) == set(selfadapt.__all__)
    for name, module in seen.items():
        assert getattr(selfadapt, name) is getattr(importlib.import_module(module), name)
