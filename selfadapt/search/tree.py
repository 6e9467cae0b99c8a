"""A tree of contexts, in which a child is an edit of its parent, and its file (LSE, arXiv 2603.18620, algorithm 1)."""

from __future__ import annotations

import dataclasses
import math
import os
import pathlib
import sys
from collections.abc import Callable, Mapping
from typing import Any

from selfadapt.errors import InvalidValueError
from selfadapt.files import read_json, write_json

RULES = ("ucb", "best", "deepest")


@dataclasses.dataclass
class Node:
    """One context of a tree.

    Attributes:
      id: unique in the tree; children have larger ids than their parents.
      parent_id: the node that was edited; `None` for the root.
      depth: edits between the root and this node.
      instructions: the context itself.
      visits: how often the node was selected.
      performance: its score, such as the mean reward on a holdout; `None` until it is known.
      round_idx: the round that made it.
      conversation: the conversation that wrote the instructions.
      summary: what its batch of problems was and how it went.
      history: the conversations with its batch.
      self_evolve_prompt: the prompt that asks for an edit of it.
      extra: fields of a file that this class does not have; they are written as they were read.

    The fields from `conversation` on are any JSON values; the tree only keeps them.
    """

    id: int
    parent_id: int | None
    depth: int
    instructions: str
    visits: int = 0
    performance: float | None = None
    round_idx: int | None = None
    conversation: Any = None
    summary: Any = None
    history: Any = None
    self_evolve_prompt: Any = None
    extra: dict[str, Any] = dataclasses.field(default_factory=dict)


class Tree:
    """A tree that grows by an edit of a selected node at a time.

    Trees share no state. Several advance in lock step by selecting a node of each, writing the edits of all in one
    batch, and adding each to its tree.

    Args:
      instructions: the context of the root.
      selection: how `select` chooses among all nodes, inner ones too:
        "ucb": the largest performance + ucb_c * sqrt(ln(max(1, N)) / max(1, visits)), where N counts the selections so
        far (equation 5 of the paper); among equals the one with the smallest id;
        "best": the largest performance, then depth, then id;
        "deepest": the largest depth, then id: a chain.
        A node without a performance counts as minus infinity.
      ucb_c: the weight of exploration, in units of the performance. With LSE's value, 2, and performances in [0, 1], it
        outweighs any difference between nodes of few visits.

    Raises:
      InvalidValueError: there is no such rule, or the weight is negative or not finite.

    >>> tree = Tree("Answer.", selection="best")
    >>> tree.set_performance(tree.root, 0.5)
    >>> child = tree.add_child(tree.select(), "Think, then answer.")
    >>> tree.set_performance(child, 0.75)
    >>> tree.best().instructions, tree.potential(tree.root)
    ('Think, then answer.', 0.25)
    """

    def __init__(self, instructions: str, *, selection: str = "ucb", ucb_c: float = 2.0):
        if selection not in RULES:
            raise InvalidValueError(f"selection is {selection!r}; it must be {_one_of(RULES)}")
        if not _is_weight(ucb_c):
            raise InvalidValueError(f"ucb_c is {ucb_c!r}; it must be {_WEIGHT}")
        self.selection = selection
        self.ucb_c = float(ucb_c)
        self.total_selections = 0
        self.root = Node(0, None, 0, instructions, round_idx=0)
        self.extra: dict[str, Any] = {}
        self._nodes = {0: self.root}
        self._next_id = 1

    @property
    def nodes(self) -> list[Node]:
        """All nodes, by id."""
        return list(self._nodes.values())

    def select(self) -> Node:
        """Returns the node to edit next, and counts the visit."""
        rules: dict[str, Callable[[Node], tuple[float, ...]]] = {
            "ucb": lambda node: (self._bound(node),),
            "best": _rank,
            "deepest": lambda node: (node.depth, node.id),
        }
        node = max(self._nodes.values(), key=rules[self.selection])
        node.visits += 1
        self.total_selections += 1
        return node

    def add_child(self, parent: Node, instructions: str, *, round_idx: int | None = None, **kept: Any) -> Node:
        """Adds an edit of a node, and returns it.

        Args:
          parent: a node of this tree.
          instructions: the new context.
          round_idx: see `Node`.
          **kept: `conversation`, `summary`, `history` or `self_evolve_prompt`.

        Raises:
          InvalidValueError: the parent is a node of another tree.
        """
        self._check(parent)
        node = Node(self._next_id, parent.id, parent.depth + 1, instructions, round_idx=round_idx, **kept)
        self._nodes[node.id] = node
        self._next_id += 1
        return node

    def set_performance(self, node: Node, performance: float) -> None:
        """Sets the score of a node, also of one that has one.

        Raises:
          InvalidValueError: the score is not a finite number, or the node is of another tree.
        """
        self._check(node)
        if not math.isfinite(performance):
            raise InvalidValueError(f"the performance of node {node.id} is {performance}; it must be a finite number")
        node.performance = float(performance)

    def best(self) -> Node:
        """Returns the node with the largest performance; among equals the deepest, then the one with the largest id.

        The performance of this node is biased upwards if it was measured with noise: `selfadapt.search.holdout`.
        """
        return max(self._nodes.values(), key=_rank)

    def potential(self, node: Node) -> float | None:
        """Returns the largest performance in the tree minus the node's, or `None` if the node has none."""
        self._check(node)
        if node.performance is None:
            return None
        return max(each.performance for each in self.nodes if each.performance is not None) - node.performance

    def path(self, node: Node) -> list[Node]:
        """Returns the nodes from the root to this one."""
        self._check(node)
        path = [node]
        while path[-1].parent_id is not None:
            path.append(self._nodes[path[-1].parent_id])
        return path[::-1]

    def save(self, path: str | os.PathLike) -> None:
        """Writes the tree atomically as LSE's `tree.json`.

        Raises:
          StorageError: the file cannot be written; one that was there is unchanged.
        """
        write_json(path, self.to_json())

    def to_json(self) -> dict[str, Any]:
        """Returns the content of LSE's `tree.json`."""
        nodes = [dataclasses.asdict(node) for node in self.nodes]
        tree = {
            "format_version": 1,
            "selection": self.selection,
            "ucb_c": self.ucb_c,
            "next_id": self._next_id,
            "total_selections": self.total_selections,
            "root_id": self.root.id,
            "nodes": [{name: node[name] for name in _NODE} | node["extra"] for node in nodes],
        }
        return tree | self.extra

    @classmethod
    def load(cls, path: str | os.PathLike) -> Tree:
        """Reads a tree that `save` or LSE's own code wrote.

        Fields that are not in LSE's format are kept, and `save` writes them again.

        Raises:
          InvalidValueError: the file cannot be read, is not complete, or is no tree; the message names the file, the
            node, the field and what it must be.
        """
        path = pathlib.Path(path)
        content = read_json(path, "a tree.json", InvalidValueError)
        record, extra = _checked(content, _TREE, str(path))
        nodes = _read_nodes(record["nodes"], record["root_id"], str(path))
        if record["next_id"] <= max(nodes):
            raise InvalidValueError(
                f"{path}: the field 'next_id' is {record['next_id']}; it must be larger than every id, so at least "
                f"{max(nodes) + 1}"
            )
        tree = cls("", selection=record["selection"], ucb_c=record["ucb_c"])
        tree.root, tree.extra, tree.total_selections = nodes[record["root_id"]], extra, record["total_selections"]
        tree._nodes, tree._next_id = nodes, record["next_id"]
        return tree

    def _bound(self, node: Node) -> float:
        if node.performance is None:
            return -math.inf
        return node.performance + self.ucb_c * math.sqrt(math.log(max(1, self.total_selections)) / max(1, node.visits))

    def _check(self, node: Node) -> None:
        if self._nodes.get(node.id) is not node:
            raise InvalidValueError(f"node {node.id} is of another tree; give a node of this one")


def _rank(node: Node) -> tuple[float, ...]:
    return (-math.inf if node.performance is None else node.performance, node.depth, node.id)


def _one_of(names: tuple[str, ...]) -> str:
    return f"one of {', '.join(map(repr, names))}"


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= sys.float_info.max  # false for NaN and infinity


def _is_weight(value: Any) -> bool:
    return _is_number(value) and value >= 0


def _optional(right: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or right(value)


_COUNT, _WEIGHT = "an integer of at least 0", "a finite number of at least 0"
_ANY: tuple[Callable[[Any], bool], str] = (lambda value: True, "a JSON value, null where it is not known")
_Fields = Mapping[str, tuple[Callable[[Any], bool], str]]

# The fields of LSE's format, version 1, in its order: what is right, and how errors name that.
_TREE: _Fields = {
    "format_version": (lambda value: type(value) is int and value == 1, "1, the only version that there is"),
    "selection": (lambda value: value in RULES, _one_of(RULES)),
    "ucb_c": (_is_weight, _WEIGHT),
    "next_id": (_is_count, _COUNT),
    "total_selections": (_is_count, _COUNT),
    "root_id": (_is_count, _COUNT),
    "nodes": (lambda value: isinstance(value, list) and len(value) > 0, "a list of at least one node"),
}
_NODE: _Fields = {
    "id": (_is_count, _COUNT),
    "parent_id": (_optional(_is_count), "the id of a node, or null for the root"),
    "depth": (_is_count, _COUNT),
    "visits": (_is_count, _COUNT),
    "performance": (_optional(_is_number), "a finite number, or null where it is not known"),
    "round_idx": (_optional(_is_count), f"{_COUNT}, or null"),
    "instructions": (lambda value: isinstance(value, str), "a text"),
    "conversation": _ANY,
    "summary": _ANY,
    "history": _ANY,
    "self_evolve_prompt": _ANY,
}


def _checked(record: Any, fields: _Fields, where: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns a record's known fields, checked, and its others."""
    if not isinstance(record, dict):
        raise InvalidValueError(f"{where}: is {record!r:.60}; it must be an object with {', '.join(fields)}")
    for name, (right, wanted) in fields.items():
        if name not in record:
            raise InvalidValueError(f"{where}: the field {name!r} is missing; it must be {wanted}")
        if not right(record[name]):
            raise InvalidValueError(f"{where}: the field {name!r} is {record[name]!r:.60}; it must be {wanted}")
    return {name: record[name] for name in fields}, {
        name: value for name, value in record.items() if name not in fields
    }


def _read_nodes(records: list[Any], root_id: int, path: str) -> dict[int, Node]:
    """Returns the nodes by id, in the order of their ids, as LSE's code keeps them; checks that they are one tree."""
    nodes: dict[int, Node] = {}
    for number, record in enumerate(records):
        named = isinstance(record, dict) and _is_count(record.get("id"))
        where = f"{path}: node {record['id']}" if named else f"{path}: nodes[{number}]"
        known, extra = _checked(record, _NODE, where)
        if known["id"] in nodes:
            raise InvalidValueError(f"{where}: the field 'id' occurs twice; each node must have another one")
        nodes[known["id"]] = Node(**known, extra=extra)
    if root_id not in nodes:
        raise InvalidValueError(f"{path}: the field 'root_id' is {root_id}; it must be the id of a node")

    def wrong(node: Node, name: str, right: str) -> InvalidValueError:
        return InvalidValueError(
            f"{path}: node {node.id}: the field {name!r} is {getattr(node, name)}; it must be {right}"
        )

    children: dict[int | None, list[Node]] = {}
    for node in nodes.values():
        if node.id == root_id and node.parent_id is not None:
            raise wrong(node, "parent_id", "null, since this node is the root")
        if node.id != root_id and node.parent_id not in nodes:
            raise wrong(
                node, "parent_id", f"the id of a node in the file; only node {root_id}, the root, has no parent"
            )
        children.setdefault(node.parent_id, []).append(node)
    found = [nodes[root_id]]
    for node in found:  # grows: each node is followed by its children
        found += children.get(node.id, [])
    if lost := nodes.keys() - {node.id for node in found}:
        raise wrong(
            nodes[min(lost)], "parent_id", f"a node from which parents lead to the root, node {root_id}: no cycle"
        )
    for node in found:
        depth = 0 if node.parent_id is None else nodes[node.parent_id].depth + 1
        if node.depth != depth:
            raise wrong(node, "depth", f"{depth}, one more than its parent's (0 for the root)")
    return dict(sorted(nodes.items()))
