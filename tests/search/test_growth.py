"""The growth of many trees at once: what is selected, written, scored and added."""

import json

import pytest

from selfadapt.search import RULES, Child, Found, Tree, grow


def edits(place, round, node):
    """Two edits of a node, of which the tree's number, the round and the node decide everything."""
    return [f"{node.instructions}{place}{round}{sample}" for sample in (0, 1)]


def score(text):
    return sum(map(ord, text)) % 7 / 7


class World:
    """Writes and scores for trees with these numbers; the edit that ends in 21 is never scored."""

    def __init__(self, numbers):
        self.numbers, self.asked = numbers, []

    def write(self, round, nodes):
        return [
            Child(place, node, text, f"wrote {text}")
            for place, node in enumerate(nodes)
            for text in edits(self.numbers[place], round, node)
        ]

    def evaluate(self, round, children):
        self.asked.append((round, len(children)))
        return [
            None if child.instructions.endswith("21") else Found(score(child.instructions), {"summary": round})
            for child in children
        ]


def alone(number, rounds, selection):
    """One tree, step by step."""
    tree = Tree(f"seed {number}", selection=selection, ucb_c=0.5)
    tree.set_performance(tree.root, score(tree.root.instructions))
    tree.root.summary = 0
    for round in range(1, rounds + 1):
        node = tree.select()
        for text in edits(number, round, node):
            if not text.endswith("21"):
                child = tree.add_child(node, text, round_idx=round, conversation=f"wrote {text}", summary=round)
                tree.set_performance(child, score(text))
    return tree


@pytest.mark.parametrize("selection", RULES)
def test_trees_that_grow_together_are_those_that_grow_alone_step_by_step(selection):
    numbers = [3, 1, 4, 5]
    world = World(numbers)
    seeds = [f"seed {number}" for number in numbers]
    trees = grow(seeds, 6, world.write, world.evaluate, selection=selection, ucb_c=0.5)
    for number, tree in zip(numbers, trees, strict=True):
        assert tree.to_json() == alone(number, 6, selection).to_json()
        assert tree.total_selections == 6
    assert world.asked == [(0, 4), *((round, 8) for round in range(1, 7))]


def test_a_grown_tree_is_what_its_file_has(tmp_path):
    world = World([2])
    (tree,) = grow(["seed"], 2, world.write, world.evaluate)
    tree.save(tmp_path / "tree.json")
    assert (
        json.loads((tmp_path / "tree.json").read_text())
        == tree.to_json()
        == Tree.load(tmp_path / "tree.json").to_json()
    )


def test_without_rounds_only_the_roots_are_scored():
    world = World([1, 2])
    trees = grow(["a", "b"], 0, world.write, world.evaluate)
    assert [len(tree.nodes) for tree in trees] == [1, 1] and world.asked == [(0, 2)]
    assert [tree.root.performance for tree in trees] == [score("a"), score("b")]
