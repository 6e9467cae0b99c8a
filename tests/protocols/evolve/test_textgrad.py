"""TextGrad in the evolution protocol: against a run step by step, what is kept, what critics read, and bad input."""

import numpy as np
import pytest

from selfadapt.domains.instructions.environment import Evaluated, Problem, Verdict
from selfadapt.domains.instructions.nodes import draw_batch
from selfadapt.domains.tiny.rules.format import edit_prompt
from selfadapt.domains.tiny.rules.source import TinyRules, oracle_instruction
from selfadapt.files import read_json, read_jsonl
from selfadapt.protocols.evolve import make
from selfadapt.protocols.evolve.textgrad import diverse
from selfadapt.protocols.run import evaluate
from tests.domains.instructions import following
from tests.endpoints import Server

BATCH, HOLDOUT, ROUNDS = 3, 16, 6
TEXTGRAD = dict(protocol__variants=("untrained_textgrad",))


def files(workdir, variant="untrained_textgrad", count=5):
    folder = workdir / "trees" / variant
    return [read_json(folder / f"rules-heldout-0-{n}" / "tree.json", "a tree", ValueError) for n in range(count)]


def step_by_step(environment, revert):
    """The nodes of one environment and the answers that they took, every problem answered alone."""

    def rewards(problems, instruction):
        answers = [following.follow(environment.prompt(problem, instruction)) for problem in problems]
        return answers, [verdict.reward for verdict in environment.verdicts(problems, answers)]

    nodes = [(None, environment.seed_instruction, np.mean(rewards(environment.holdout, "")[1]), 0)]
    current, taken = 0, HOLDOUT
    for number in range(1, ROUNDS + 1):
        batch = draw_batch(environment, BATCH, 0, number)
        answers, found = rewards(batch, nodes[current][1])
        taken += BATCH
        if min(found) == 1:
            continue
        lines = [(problem.question, answer, problem.truth) for problem, answer in zip(batch, answers, strict=True)]
        prompt = edit_prompt(nodes[current][1], lines)
        text = following.piece_by_piece(prompt, f"textgrad rewrite {environment.id} {number}", 0)
        if text:
            score = np.mean(rewards(environment.holdout, text)[1])
            taken += HOLDOUT
            nodes.append((current, text, score, number))
            current = current if revert and score <= nodes[current][2] else len(nodes) - 1
    return nodes, taken


@pytest.mark.parametrize("revert", [True, False])
def test_a_rewrite_is_current_if_it_is_better_or_always(config_of, tmp_path, revert):
    config = config_of(protocol__textgrad__revert_on_worse_holdout=revert, **TEXTGRAD)
    summary = evaluate(config, tmp_path)
    taken, dropped = [], 0
    for environment, tree in zip(TinyRules().environments("heldout", 5), files(tmp_path), strict=True):
        nodes, answers = step_by_step(environment, revert)
        names = ("parent_id", "instructions", "performance", "round_idx")
        assert [tuple(node[name] for name in names) for node in tree["nodes"]] == nodes
        assert tree["answers"] == answers <= (1 + ROUNDS) * (HOLDOUT + BATCH)
        taken.append(answers)
        dropped += len({node["id"] for node in tree["nodes"]} - {node["parent_id"] for node in tree["nodes"]}) - 1
    (row,) = summary["evolution"]
    assert row["answers"] == pytest.approx(np.mean(taken)) and row["best"]["mean"] > 0.3
    assert (dropped > 0) == revert  # a chain has one leaf


def test_an_interrupted_run_resumes_to_the_same_result(config_of, generate, tmp_path):
    whole = evaluate(config_of(**TEXTGRAD), tmp_path / "whole")

    def stopped(prompt, id, sample):
        if id.endswith(" 3"):
            raise KeyboardInterrupt
        return following.piece_by_piece(prompt, id, sample)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(generate, "edit", stopped)
        evaluate(config_of(**TEXTGRAD), tmp_path / "again")
    before = len(generate.calls)
    assert evaluate(config_of(**TEXTGRAD), tmp_path / "again")["evolution"] == whole["evolution"]
    assert len(generate.calls) - before == 1 + 2 * 3  # the holdout of round 3, and batch and holdout of three more
    assert (tmp_path / "again" / "edits.jsonl").read_bytes() == (tmp_path / "whole" / "edits.jsonl").read_bytes()


def test_a_critic_reads_failures_and_the_rewrite_reads_the_critic(config_of, tmp_path, monkeypatch):
    monkeypatch.setenv("CHAT_KEY", "sk-1")
    oracles = [oracle_instruction(environment).split("\n") for environment in TinyRules().environments("heldout", 2)]
    half = "\n".join(line for lines in oracles for line in lines[::2])
    long, most = "plum = C\n" * 20, len(half)

    def reply(body):
        text = body["messages"][0]["content"]
        if "Criticize the instructions." in text:
            return f"Criticism {body['seed']}."
        if body["seed"] % 2:
            return f"<IMPROVED_VARIABLE>{long}</IMPROVED_VARIABLE>"
        return f"It is better so: <IMPROVED_VARIABLE>{half}</IMPROVED_VARIABLE>"

    with Server(reply) as server:
        endpoint = {"url": server.url, "model": "chat-1", "api_key_env": "CHAT_KEY"}
        changes = {f"protocol__editor_endpoint__{name}": value for name, value in endpoint.items()}
        changes |= {"protocol__textgrad__max_failures": 2, "protocol__textgrad__max_instruction_chars": most}
        changes |= {"protocol__textgrad__max_example_chars": 30, "protocol__textgrad__forbid_fewshot": False}
        changes |= dict(evaluation__contexts=2, domain__tree_rounds=4, protocol__variants=("endpoint_textgrad",))
        evaluate(config_of(**changes), tmp_path)
    prompts = [body["messages"][0]["content"] for _, _, body in server.seen]
    critics = [text for text in prompts if "Criticize the instructions." in text]
    rewrites = [text for text in prompts if "<IMPROVED_VARIABLE>" in text]
    assert len(critics) == len(rewrites) == len(prompts) / 2 > 0
    for text in critics:
        shown = text.split("problems:\n\n")[1].split("\n\nCriticize")[0].split("\n\n")
        assert 1 <= len(shown) <= 2 and all(len(each) <= 30 and "(wrong)" in each for each in shown)
    said = {reply(body) for _, _, body in server.seen if body["messages"][0]["content"] in critics}
    for text in rewrites:
        assert text.split("<criticism>\n")[1].split("\n</criticism>")[0] in said
        assert f"at most {most} characters" in text and "examples" not in text
    edits = list(read_jsonl(tmp_path / "edits.jsonl"))
    assert {edit["status"] for edit in edits} == {"ok", f"the instruction has more than {most} characters"}
    texts = {node["instructions"] for tree in files(tmp_path, "endpoint_textgrad", 2) for node in tree["nodes"]}
    assert texts == {"", half}
    assert any(half in text for text in critics)  # of an instruction with which some answers are right


def test_failures_of_different_errors_come_first():
    lines = [Evaluated(Problem(str(n), "", ""), "", Verdict(0.0, error)) for n, error in enumerate("aabac")]
    assert [[line.problem.id for line in diverse(lines, count)] for count in (1, 3, 4, 9)] == [
        ["0"], ["0", "2", "4"], ["0", "1", "2", "4"], ["0", "1", "2", "3", "4"]
    ]  # fmt: skip


def test_a_limit_below_one_is_named(config_of):
    with pytest.raises(ValueError, match=r"config\.protocol\.textgrad\.max_failures is 0; it must be at least 1"):
        make(config_of(protocol__textgrad__max_failures=0, **TEXTGRAD))
