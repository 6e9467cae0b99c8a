"""Grows many trees at once: each round edits a node of every tree, and scores all new nodes in one batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from selfadapt.search.tree import Node, Tree


@dataclasses.dataclass(frozen=True)
class Child:
    """A context that may become a node.

    Attributes:
      tree: the index of its tree.
      parent: the node that was edited; `None` for the root.
      instructions: the context.
      conversation: what wrote it, any JSON value.
    """

    tree: int
    parent: Node | None
    instructions: str
    conversation: Any = None


@dataclasses.dataclass(frozen=True)
class Found:
    """What became of a context.

    Attributes:
      performance: its score.
      kept: fields of the node: `summary`, `history`, `self_evolve_prompt` or `extra`.
    """

    performance: float
    kept: Mapping[str, Any] = dataclasses.field(default_factory=dict)


Write = Callable[[int, Sequence[Node]], Sequence[Child]]
Evaluate = Callable[[int, Sequence[Child]], Sequence[Found | None]]


def grow(
    seeds: Sequence[str],
    rounds: int,
    write: Write,
    evaluate: Evaluate,
    *,
    selection: str = "ucb",
    ucb_c: float = 2.0,
) -> list[Tree]:
    """Returns trees that have grown by some rounds, from one context each.

    A tree grows as it would alone if `write` and `evaluate` do with each of their entries what they would do with it
    alone. A round in which a tree gets no new node counts as a visit of the selected one.

    Args:
      seeds: the context of each root.
      rounds: how often a node of each tree is edited.
      write: given the round, counted from 1, and the selected node of each tree, returns their edits, any number of
        each, in the order of the trees.
      evaluate: given the round and new contexts (those of the roots in round 0), returns what became of each; `None`
        for one that is to be no node.
      selection: see `Tree`.
      ucb_c: see `Tree`.

    Example:
      >>> def write(round, nodes):
      ...     return [Child(place, node, f"{node.instructions}{round}") for place, node in enumerate(nodes)]
      >>> def evaluate(round, children):
      ...     return [Found(len(child.instructions)) for child in children]
      >>> [node.instructions for node in grow(["a"], 2, write, evaluate)[0].nodes]
      ['a', 'a1', 'a12']
    """
    trees = [Tree(seed, selection=selection, ucb_c=ucb_c) for seed in seeds]
    roots = [Child(place, None, seed) for place, seed in enumerate(seeds)]
    for tree, found in zip(trees, evaluate(0, roots), strict=True):
        if found is not None:
            for name, value in found.kept.items():
                setattr(tree.root, name, value)
            tree.set_performance(tree.root, found.performance)
    for number in range(1, rounds + 1):
        children = write(number, [tree.select() for tree in trees])
        for child, found in zip(children, evaluate(number, children), strict=True):
            if found is not None:
                assert child.parent is not None
                tree, about = trees[child.tree], {"round_idx": number, "conversation": child.conversation}
                node = tree.add_child(child.parent, child.instructions, **about, **found.kept)
                tree.set_performance(node, found.performance)
    return trees
