"""The evolution protocol, with stand-ins for what models write: variants, measures, files, resuming, bad input."""

import json
import math

import numpy as np
import pytest

from selfadapt.domains.instructions import nodes
from selfadapt.domains.tiny.rules.source import TinyRules, oracle_instruction
from selfadapt.files import read_jsonl
from selfadapt.protocols.evolve import make
from selfadapt.protocols.run import evaluate
from selfadapt.search import Tree, cross_validate
from tests.domains.instructions import following
from tests.domains.instructions.worlds import random_rules_model

SHAPES = ("tree", "chain", "best_of_n")
EVOLVED = [f"{editor}_{shape}" for editor in ("untrained", "trained") for shape in SHAPES]
VARIANTS = ("none", *EVOLVED, "oracle")


@pytest.fixture(scope="module")
def finished(config_of, tmp_path_factory):
    """What `evaluate` returned, and the workdir."""
    workdir = tmp_path_factory.mktemp("runs") / "run"
    return evaluate(config_of(protocol__variants=VARIANTS), workdir), workdir


def trees(workdir, variant):
    return [Tree.load(workdir / "trees" / variant / f"rules-heldout-0-{n}" / "tree.json") for n in range(5)]


def test_every_variant_writes_as_many_edits_and_spends_them_in_its_shape(finished):
    summary, workdir = finished
    edits = list(read_jsonl(workdir / "edits.jsonl"))
    for variant in EVOLVED:
        own = [edit for edit in edits if edit["variant"] == variant]
        assert len(own) == 5 * 6 and {edit["status"] for edit in own} == {"ok", "the instruction is empty"}
        found = trees(workdir, variant)
        assert sum(len(tree.nodes) - 1 for tree in found) == sum(edit["status"] == "ok" for edit in own)
        parents = [[node.parent_id for node in tree.nodes[1:]] for tree in found]
        if variant.endswith("chain"):
            assert all(each == list(range(len(each))) for each in parents)
        elif variant.endswith("best_of_n"):
            assert all(set(each) == {0} for each in parents)
        else:
            assert any(len(set(each)) > 1 for each in parents)
            assert any(each.count(parent) == 2 for each in parents for parent in each)
    row = {row["name"]: row for row in summary["evolution"]}["untrained_chain"]
    assert sum(row["invalid"].values()) == 5 * 7 - row["contexts"] > 0


def test_the_measures_follow_from_the_scores_of_the_nodes(finished):
    summary, workdir = finished
    rows = {row["name"]: row for row in summary["evolution"]}
    for variant in EVOLVED:
        tables = [[node.extra["scores"] for node in tree.nodes] for tree in trees(workdir, variant)]
        best = [max(math.fsum(scores) / 16 for scores in table) for table in tables]
        honest = [cross_validate(table, 4, 0).mean for table in tables]
        row = rows[variant]
        assert row["best"]["mean"] == pytest.approx(np.mean(best))
        assert row["honest"]["mean"] == pytest.approx(np.mean(honest))
        assert row["optimism"]["mean"] == pytest.approx(np.mean(best) - np.mean(honest))
        last = row["curve"][-1]
        assert (last["honest"], last["best"], last["edits"]) == (
            *(pytest.approx(row[n]["mean"]) for n in ("honest", "best")),
            6,
        )
        assert row["curve"][0]["best"] == pytest.approx(rows["none"]["best"]["mean"])
        assert [point["best"] for point in row["curve"]] == sorted(point["best"] for point in row["curve"])
    assert rows["oracle"]["honest"]["mean"] == 1.0 and rows["none"]["optimism"]["mean"] == pytest.approx(0)
    assert rows["untrained_tree"]["best"]["mean"] > rows["none"]["best"]["mean"] + 0.2
    pairs = {(pair["a"], pair["b"], pair["measure"]): pair for pair in summary["paired"]}
    pair = pairs["oracle", "trained_tree", "honest"]
    assert pair["difference"] == pytest.approx(1 - rows["trained_tree"]["honest"]["mean"]) and pair["n"] == 5


def test_an_editor_of_the_same_weights_writes_the_same_and_the_first_edits_are_those_of_fewer_environments(
    finished, config_of
):
    _, workdir = finished
    for shape in SHAPES:
        pairs = zip(trees(workdir, f"untrained_{shape}"), trees(workdir, f"trained_{shape}"), strict=True)
        assert all(one.to_json() == other.to_json() for one, other in pairs)
    few = evaluate(
        config_of(evaluation__contexts=2, protocol__variants=("untrained_tree",)), workdir.parent / "few"
    )  # fmt: skip
    assert few["environments"] == 2
    for one, other in zip(trees(workdir, "untrained_tree"), range(2), strict=False):
        path = workdir.parent / "few" / "trees" / "untrained_tree" / f"rules-heldout-0-{other}" / "tree.json"
        assert json.loads(path.read_text()) == one.to_json()


def test_a_trained_editor_guides_another_model_whose_answers_it_reads_and_whose_scores_are_reported(
    config_of, generate, tmp_path, monkeypatch
):
    other = str(random_rules_model(tmp_path / "other", hidden_size=8))
    read = []  # the prompts of edits

    def silly(question):
        return len(question) % 3 == 0

    def call(given, prompts, *, num_samples=None, **options):
        if num_samples is not None:
            assert given.name == config.protocol.policy
            read.extend(prompts)
            return generate(given, prompts, num_samples=num_samples, **options)
        assert given.name == other
        questions = [prompt.split("\n")[-1].removeprefix("? ").removesuffix(" -> ") for prompt in prompts]
        return [
            "silly" if silly(asked) else following.follow(prompt)
            for asked, prompt in zip(questions, prompts, strict=True)
        ]

    monkeypatch.setattr(nodes, "generate", call)
    config = config_of(student=other, protocol__variants=("none", "trained_tree", "oracle"))
    summary = evaluate(config, tmp_path / "run")
    rows = {row["name"]: row for row in summary["evolution"]}
    asked = [problem for each in TinyRules().environments("heldout", 5) for problem in each.holdout]
    wrong = sum(silly(problem.question) for problem in asked)
    assert wrong and rows["oracle"]["best"]["mean"] == pytest.approx(1 - wrong / len(asked))
    assert rows["trained_tree"]["best"]["mean"] > rows["none"]["best"]["mean"]
    lines = [line[2:].split(" -> ") for prompt in read for line in prompt.split("\n") if line.startswith("? ")]
    assert any(silly(question) for question, _ in lines)
    assert all(answer.startswith("silly | ") == silly(question) for question, answer in lines)
    assert summary["student"] == other and other in (tmp_path / "run" / "report.html").read_text()


def test_an_interrupted_run_resumes_to_the_same_result(finished, config_of, generate, tmp_path):
    whole, workdir = finished

    def stopped(prompt, id, sample):
        if id.endswith(" 3"):
            raise KeyboardInterrupt
        return following.piece_by_piece(prompt, id, sample)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(generate, "edit", stopped)
        evaluate(config_of(protocol__variants=VARIANTS), tmp_path / "again")
    before = len(generate.calls)
    again = evaluate(config_of(protocol__variants=VARIANTS), tmp_path / "again")
    assert again["evolution"] == whole["evolution"] and again["paired"] == whole["paired"]
    assert (tmp_path / "again" / "edits.jsonl").read_bytes() == (workdir / "edits.jsonl").read_bytes()
    # In all, "none" and "oracle" take one call each, and the trees of each editor 4 + 7 + 2; the first 4 were done.
    assert len(generate.calls) - before == 2 + 2 * 13 - 4


def test_the_page_has_the_measures_and_trees_with_what_each_edit_changed(finished):
    summary, workdir = finished
    page = (workdir / "report.html").read_text()
    assert page.count("<svg") == 3 * 2 and '<h2 id="trees-title">Trees: trained_tree</h2>' in page
    assert "<ins>+ " in page and "edits: the instruction is empty" in page
    assert all(row["name"] in page for row in summary["evolution"])


def test_best_instructions_are_in_a_file(finished):
    _, workdir = finished
    found = json.loads((workdir / "environments.json").read_text())
    assert len(found) == 5 * 8
    oracle = [each for each in found if each["variant"] == "oracle"]
    assert [each["instruction"] for each in oracle] == [
        oracle_instruction(environment) for environment in TinyRules().environments("heldout", 5)
    ]
    by_tree = [each for each in found if each["variant"] == "trained_tree"]
    assert [each["instruction"] for each in by_tree] == [t.best().instructions for t in trees(workdir, "trained_tree")]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"protocol__variants": ()}, r"config\.protocol\.variants is \(\); it must name variants, each once"),
        ({"protocol__variants": ("tree",)}, r"config\.protocol\.variants has 'tree'; a variant is one of none, "),
        ({"protocol__policy": ""}, r"has 'trained_tree', and config\.protocol\.policy names no trained editor"),
        ({"protocol__policy": "/nowhere"}, r"config\.protocol\.policy: /nowhere holds no policy"),
        ({"protocol__folds": 5}, r"config\.protocol\.folds is 5, and the holdout of 'rules-heldout-0-0' has 16"),
        ({"domain__tree_rounds": 0}, r"config\.domain\.tree_rounds is 0"),
        ({"sampling__top_p": 0.0}, r"config\.sampling: temperature must be 0 or more"),
    ],
)
def test_bad_input_is_named_before_anything_is_computed(config_of, generate, changes, message):
    before = len(generate.calls)
    with pytest.raises(ValueError, match=message):
        make(config_of(**{"protocol__variants": VARIANTS} | changes))
    assert len(generate.calls) == before


def test_another_domain_is_refused(config_of):
    with pytest.raises(ValueError, match="the protocol 'evolve' needs the domain 'instructions'"):
        make(config_of(), domain=object())
