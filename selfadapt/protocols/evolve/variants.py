"""What the evolution protocol compares: editors, and how the edits that they may write are spent."""

from __future__ import annotations

from typing import Any, NamedTuple

NONE, ORACLE = "none", "oracle"
UNTRAINED, TRAINED, ENDPOINT = "untrained", "trained", "endpoint"
TREE, CHAIN, BEST_OF_N, GEPA, TEXTGRAD = "tree", "chain", "best_of_n", "gepa", "textgrad"

EDITORS = {
    UNTRAINED: "the untrained editor",
    TRAINED: "the trained editor",
    ENDPOINT: "the editor at an endpoint",
}
NOTES = {
    TREE: "each round edits the node that the rule selects",
    CHAIN: "each edit is of the one before it",
    BEST_OF_N: "all edits are of the seed instruction",
    GEPA: "GEPA, with as many answers as the tree and any number of edits",
    TEXTGRAD: "each edit is of the best one so far, and follows a critic's words if the editor can write them",
}


class Variant(NamedTuple):
    """An editor and what it does.

    Attributes:
      editor: a key of `EDITORS`.
      shape: a key of `NOTES`.
    """

    editor: str
    shape: str

    @property
    def name(self) -> str:
        """What configs call it."""
        return f"{self.editor}_{self.shape}"

    def changes(self, rounds: int, edits: int) -> dict[str, Any]:
        """Returns the fields of a `Growth` of `rounds` with `edits` each that differ; their product is the same."""
        if self.shape in (CHAIN, GEPA, TEXTGRAD):
            return {"rounds": rounds * edits, "edits": 1, "selection": "deepest"}
        return {"rounds": 1, "edits": rounds * edits} if self.shape == BEST_OF_N else {}


EVOLVED = {variant.name: variant for variant in (Variant(editor, shape) for editor in EDITORS for shape in NOTES)}
VARIANTS = (NONE, *EVOLVED, ORACLE)


def note(name: str) -> str:
    """Returns what a variant is, in words."""
    if name in EVOLVED:
        return f"{EDITORS[EVOLVED[name].editor]}; {NOTES[EVOLVED[name].shape]}"
    return "the seed instruction" if name == NONE else "the instruction of a perfect author"
