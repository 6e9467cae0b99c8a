"""GEPA in the evolution protocol: its candidates, its budget, batches, resuming, its own prompt, and bad input."""

import collections
import sys

import numpy as np
import pytest

from selfadapt.domains.tiny.rules.source import TinyRules
from selfadapt.errors import MissingPackageError
from selfadapt.files import read_json, read_jsonl
from selfadapt.protocols.evolve import make
from selfadapt.protocols.run import evaluate
from selfadapt.search import Tree
from tests.domains.instructions import following
from tests.endpoints import Server

BATCH, HOLDOUT, EDITS = 3, 16, 6
GEPA = dict(protocol__variants=("untrained_gepa",))


def trees(workdir, count=5):
    folder = workdir / "trees" / "untrained_gepa"
    return [Tree.load(folder / f"rules-heldout-0-{number}" / "tree.json") for number in range(count)]


@pytest.fixture(scope="module")
def finished(config_of, generate, tmp_path_factory):
    """What `evaluate` returned, the workdir, and how often answers were asked for."""
    workdir, before = tmp_path_factory.mktemp("runs") / "run", len(generate.calls)
    return evaluate(config_of(**GEPA), workdir), workdir, len(generate.calls) - before


def test_candidates_are_scored_on_the_holdout_and_grow_from_their_parents(finished):
    summary, workdir, _ = finished
    for environment, tree in zip(TinyRules().environments("heldout", 5), trees(workdir), strict=True):
        for node in tree.nodes:
            answers = [following.follow(environment.prompt(each, node.instructions)) for each in environment.holdout]
            rewards = [verdict.reward for verdict in environment.verdicts(environment.holdout, answers)]
            assert node.extra["scores"] == rewards and node.performance == np.mean(rewards)
        rounds = [node.round_idx for node in tree.nodes]
        assert rounds == sorted(set(rounds)) and sum(node.visits for node in tree.nodes) == tree.total_selections
        children = collections.Counter(node.parent_id for node in tree.nodes)
        assert all(children[node.id] <= node.visits for node in tree.nodes)
    assert any(node.parent_id for tree in trees(workdir) for node in tree.nodes)
    (row,) = summary["evolution"]
    assert row["best"]["mean"] == pytest.approx(np.mean([tree.best().performance for tree in trees(workdir)]))
    assert row["best"]["mean"] > np.mean([tree.root.performance for tree in trees(workdir)]) + 0.2
    assert row["curve"][-1]["edits"] == max(node.round_idx for tree in trees(workdir) for node in tree.nodes)


def test_a_proposal_that_is_no_better_on_its_problems_is_no_candidate(finished):
    summary, workdir, _ = finished
    edits = list(read_jsonl(workdir / "edits.jsonl"))
    accepted = [edit for edit in edits if edit["status"] == "ok"]
    rejected = [edit for edit in edits if edit["status"].startswith("no better than its parent")]
    invalid = [edit for edit in edits if edit["status"] == "the instruction is empty"]
    assert accepted and rejected and invalid and len(accepted + rejected + invalid) == len(edits)
    assert len(accepted) == sum(len(tree.nodes) - 1 for tree in trees(workdir))
    (row,) = summary["evolution"]
    assert row["invalid"] == {"the instruction is empty": len(invalid)} and row["rejected"] == len(rejected)


def test_gepa_takes_as_many_answers_as_a_tree_or_a_few_less(finished):
    summary, workdir, _ = finished
    most = (1 + EDITS) * (HOLDOUT + BATCH)
    taken = [read_json(path, "a tree", ValueError)["answers"] for path in sorted(workdir.glob("trees/*/*/tree.json"))]
    assert len(taken) == 5 and all(most - 2 * BATCH - HOLDOUT < each <= most for each in taken)
    edits = list(read_jsonl(workdir / "edits.jsonl"))
    for place, (tree, answers) in enumerate(zip(trees(workdir), taken, strict=True)):
        own = [edit for edit in edits if edit["task"].endswith(f"-{place}")]
        proposals = [edit for edit in own if edit["status"] != "the instruction is empty"]
        perfect = tree.total_selections - len(own)  # iterations whose problems were all answered right
        assert answers == HOLDOUT * len(tree.nodes) + BATCH * (2 * len(proposals) + len(own) - len(proposals) + perfect)
    assert summary["evolution"][0]["answers"] == pytest.approx(np.mean(taken))


def test_runs_are_the_same_alone_and_in_a_batch_and_after_an_interruption(finished, config_of, generate, tmp_path):
    whole, workdir, calls = finished
    ids = []

    def recorded(prompt, id, sample):
        ids.append(id)
        return following.piece_by_piece(prompt, id, sample)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generate, "edit", recorded)
        evaluate(config_of(evaluation__contexts=1, **GEPA), tmp_path / "alone")
    assert ids == [f"gepa rules-heldout-0-0 {number}" for number in range(1, len(ids) + 1)]
    assert trees(tmp_path / "alone", 1)[0].to_json() == trees(workdir)[0].to_json()
    first = len(generate.calls)

    def stopped(prompt, id, sample):
        if id.endswith(" 4"):
            raise KeyboardInterrupt
        return following.piece_by_piece(prompt, id, sample)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(generate, "edit", stopped)
        evaluate(config_of(**GEPA), tmp_path / "again")
    assert len(generate.calls) > first
    assert evaluate(config_of(**GEPA), tmp_path / "again")["evolution"] == whole["evolution"]
    assert (tmp_path / "again" / "edits.jsonl").read_bytes() == (workdir / "edits.jsonl").read_bytes()
    assert len(generate.calls) - first == calls  # none was made again


def test_an_editor_that_is_asked_in_words_gets_gepas_prompt(config_of, tmp_path, monkeypatch):
    monkeypatch.setenv("CHAT_KEY", "sk-1")
    line, long = "apple = K\nplum = C", "plum = C" + "\nplum = C" * 200

    def reply(body):
        return f"Some thought.\n```\n{long if body['seed'] % 2 else line}\n```"

    with Server(reply) as server:
        endpoint = {"url": server.url, "model": "chat-1", "api_key_env": "CHAT_KEY"}
        changes = {f"protocol__editor_endpoint__{name}": value for name, value in endpoint.items()}
        changes |= dict(evaluation__contexts=2, domain__tree_rounds=2, protocol__variants=("endpoint_gepa",))
        evaluate(config_of(**changes), tmp_path)
    prompts = [body["messages"][0]["content"] for _, _, body in server.seen]
    assert prompts and all("Feedback" in text and "The right answer is:" in text for text in prompts)
    statuses = {edit["text"]: edit["status"] for edit in read_jsonl(tmp_path / "edits.jsonl")}
    assert statuses.keys() == {line, long} and statuses[line].startswith("no better than its parent")
    assert statuses[long].startswith("the instruction makes a prompt of ")


def test_without_the_package_the_extra_is_named(config_of, monkeypatch):
    monkeypatch.setitem(sys.modules, "gepa", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'selfadapt\[gepa\]'"):
        make(config_of(**GEPA))
