"""Trees of instructions, with stand-ins for the models: alone and in a batch, invalid edits, resuming, potential."""

import dataclasses

import numpy as np
import pytest

from selfadapt.checkpoint.units import DurableUnits
from selfadapt.domains.instructions import domain as domains
from selfadapt.domains.instructions import nodes
from selfadapt.domains.instructions.growing import Growth, grow_trees
from selfadapt.domains.instructions.nodes import Room, draw_batch
from selfadapt.domains.tiny.rules.format import LineFormat
from selfadapt.domains.tiny.rules.source import TinyRules
from selfadapt.errors import InvalidValueError
from selfadapt.search import Tree
from tests.domains.instructions import following

GROWTH = Growth(
    rounds=4, edits=2, selection="ucb", ucb_c=0.3, batch=3, seed=0, temperature=1.0, top_p=1.0, stop=("\n",)
)
MODEL = following.model()
ROOM = Room(MODEL.model, MODEL.model, 96, 16)


@pytest.fixture
def generate(monkeypatch):
    fake = following.Generate(following.piece_by_piece)
    monkeypatch.setattr(nodes, "generate", fake)
    return fake


def environments(count=5):
    return TinyRules().environments("train", count)


def grown(some, room=ROOM, **changes):
    return grow_trees(MODEL, MODEL, some, LineFormat(), room, dataclasses.replace(GROWTH, **changes))


def one_by_one(environment, growth):
    """One tree, in which every edit and every problem is worked on alone."""
    tree = Tree(environment.seed_instruction, selection=growth.selection, ucb_c=growth.ucb_c)

    def answered(node, round):
        def reward(problem):
            answer = following.follow(environment.prompt(problem, node.instructions))
            return answer, environment.verdicts([problem], [answer])[0].reward

        tree.set_performance(node, np.mean([reward(problem)[1] for problem in environment.holdout]))
        batch = draw_batch(environment, growth.batch, growth.seed, round)
        shown = [f"? {problem.question} -> {reward(problem)[0]} | {problem.truth}\n" for problem in batch]
        instruction = f"{node.instructions}\n" if node.instructions else ""
        node.self_evolve_prompt = f"{instruction}{''.join(shown)}rewrite:\n"

    answered(tree.root, 0)
    for round in range(1, growth.rounds + 1):
        parent = tree.select()
        for sample in range(growth.edits):
            id = f"tree {environment.id} {round}"
            text = following.piece_by_piece(parent.self_evolve_prompt, id, sample).strip()
            if text:
                answered(tree.add_child(parent, text, round_idx=round), round)
    return tree


FIELDS = ("id", "parent_id", "instructions", "visits", "performance", "round_idx", "self_evolve_prompt")


def rows(tree):
    return [tuple(getattr(node, field) for field in FIELDS) for node in tree.nodes]


@pytest.mark.parametrize("selection", ["ucb", "best", "deepest"])
def test_a_tree_is_the_same_alone_in_a_batch_and_step_by_step(generate, selection):
    together = grown(environments(), selection=selection)
    growth = dataclasses.replace(GROWTH, selection=selection)
    for place, environment in enumerate(environments()):
        (alone,) = grown([environment], selection=selection)
        assert alone.to_json() == together[place].to_json()
        assert rows(alone) == rows(one_by_one(environment, growth))
    assert any(len(tree.nodes) > 6 for tree in together) and max(tree.best().performance for tree in together) > 0.5


def test_every_node_of_a_tree_is_scored_on_the_same_holdout(generate):
    (environment,) = environments(1)
    (tree,) = grown([environment])
    asked = {problem.question for problem in environment.holdout}
    for node in tree.nodes:
        own = [environment.prompt(problem, node.instructions) for problem in environment.holdout]
        assert len(own) == len(asked) == 16 and set(own) <= set(generate.prompts)
        assert len(node.extra["scores"]) == 16 and node.performance == np.mean(node.extra["scores"])
        assert len(node.summary) == 3 and not asked & {line["question"] for line in node.summary}


def test_an_edit_without_an_instruction_makes_no_node_and_keeps_its_reason(generate):
    trees = grown(environments())
    invalid = [each for tree in trees for node in tree.nodes for each in node.extra.get("invalid_edits", ())]
    children = sum(len(tree.nodes) - 1 for tree in trees)
    assert 0 < len(invalid) < 20 and children + len(invalid) == 5 * 4 * 2
    assert {each["reason"] for each in invalid} == {"the instruction is empty"}


def test_an_instruction_or_a_summary_that_is_too_long_harms_no_other(generate, monkeypatch):
    def long(prompt, id, sample):
        return "plum = C\n" * 12 if "train-0-1" in id else following.piece_by_piece(prompt, id, sample)

    plain = grown(environments(3))
    generate.edit = long
    for room, reason in (
        (Room(MODEL.model, following.model(64).model, 96, 16), "the instruction makes a prompt of"),
        (Room(following.model(182).model, MODEL.model, 96, 16), "the summary makes a prompt of"),
    ):
        trees = grown(environments(3), room)
        reasons = [each["reason"] for each in trees[1].root.extra["invalid_edits"]]
        assert len(trees[1].nodes) == 1 and len(reasons) == 8 and all(each.startswith(reason) for each in reasons)
        assert trees[0].to_json() == plain[0].to_json()
    with pytest.raises(InvalidValueError, match=r"'rules-train-0-0': the summary makes .* lower config\.domain\.batch"):
        grown(environments(1), Room(following.model(100).model, MODEL.model, 96, 16))


def test_growth_that_was_interrupted_resumes_to_the_same_trees(generate, tmp_path, monkeypatch):
    whole = grown(environments())

    def stopped(prompt, id, sample):
        if id.endswith(" 3"):
            raise KeyboardInterrupt
        return following.piece_by_piece(prompt, id, sample)

    generate.edit = stopped
    with DurableUnits(tmp_path, 1e9, pytest.fail) as stored, stored.active(), pytest.raises(KeyboardInterrupt):
        grown(environments())
    calls = len(generate.calls)
    generate.edit = following.piece_by_piece
    with DurableUnits(tmp_path, 1e9, pytest.fail) as stored, stored.active():
        again = grown(environments())
    assert [tree.to_json() for tree in again] == [tree.to_json() for tree in whole]
    assert len(generate.calls) - calls == 2  # rounds 3 and 4


def test_training_situations_are_the_nodes_with_the_largest_potential_first(generate):
    some = environments()
    trees = grown(some)
    found = domains.by_potential(some, trees)
    by_id = {environment.id: (environment, tree) for environment, tree in zip(some, trees, strict=True)}
    potentials, prompts = [], []
    for id, situation in found.items():
        environment, tree = by_id[id.split("/")[0]]
        node = tree.nodes[int(id.split("/")[1])]
        potentials.append(max(each.performance for each in tree.nodes) - node.performance)
        prompts.append(LineFormat().edit_prompt(environment, situation.instruction, situation.summary))
        assert situation.environment is environment and prompts[-1] == node.self_evolve_prompt
    assert potentials == sorted(potentials, reverse=True) and potentials[0] > 0
    assert len(set(prompts)) == len(prompts)
    assert set(prompts) == {node.self_evolve_prompt for tree in trees for node in tree.nodes}
