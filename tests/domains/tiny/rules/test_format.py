"""Tests of the texts of the tiny world of rules, and of their tokens."""

import random

import pytest

from selfadapt.domains.instructions.environment import Evaluated, Problem, Verdict
from selfadapt.domains.tiny.rules.families import FAMILIES, VALUES, draw_rule, write_piece
from selfadapt.domains.tiny.rules.format import LINES, LineFormat, answer_prompt, make_tokenizer
from selfadapt.domains.tiny.rules.source import TinyRules, oracle_instruction
from selfadapt.errors import InvalidEdit


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer(1024)


def test_prompts_are_as_described():
    assert answer_prompt("", "apple 12") == "? apple 12 -> "
    assert answer_prompt("apple = K\nplum = C", "apple 12") == "apple = K\nplum = C\n? apple 12 -> "
    summary = [
        Evaluated(Problem("0", "apple 12", "K12"), "apple12", Verdict(0.0)),
        Evaluated(Problem("1", "plum 30", "C30"), "C\n? 30", Verdict(0.0)),
    ]
    shown = "? apple 12 -> apple12 | K12\n? plum 30 -> C ? 30 | C30\nrewrite:\n"
    environment = TinyRules().environments("heldout", 1)[0]
    assert LineFormat().edit_prompt(environment, "", summary) == shown
    assert LineFormat().edit_prompt(environment, "plum = C", summary) == "plum = C\n" + shown


def test_an_edit_is_read_without_its_empty_lines_and_refused_if_it_has_none_or_too_many():
    assert LineFormat().parse_edit("\napple = K \n\n Think.") == "apple = K\nThink."
    with pytest.raises(InvalidEdit, match="the instruction is empty"):
        LineFormat().parse_edit(" \n\n")
    assert LineFormat().parse_edit("apple = K\n" * LINES).count("apple") == LINES
    with pytest.raises(InvalidEdit, match=f"the instruction has {LINES + 1} lines, over {LINES}"):
        LineFormat().parse_edit("apple = K\n" * (LINES + 1))


def test_words_signs_and_parts_of_statements_are_one_token_each(tokenizer):
    def tokens(text):
        return [tokenizer.decode([token]) for token in tokenizer.encode(text)]

    assert tokens("apple = K\n") == ["apple", " = ", "K", "\n"]
    assert tokens("? apple 12 -> K12\n") == ["? ", "apple", " ", "1", "2", " -> ", "K", "1", "2", "\n"]
    assert tokens("date = /\n? date 3 7") == [*("date", " = ", "/", "\n", "? ", "date", " ", "3", " ", "7")]
    assert tokens("12 min | 12 kW\nrewrite:\n") == [
        "1",
        "2",
        " ",
        "min",
        " | ",
        "1",
        "2",
        " ",
        "kW",
        "\n",
        "rewrite:\n",
    ]
    assert tokens("? list teas origin!=nepal -> SELECT name FROM t7 WHERE c3!='nepal'") == [
        *("? ", "list", " ", "teas", " ", "origin", "!=", "nepal", " -> "),
        *("SELECT name FROM ", "t7", " WHERE ", "c3", "!=", "'", "nepal", "'"),
    ]


def test_no_word_of_the_world_is_spelled_in_several_tokens(tokenizer):
    rng = random.Random(0)
    for name, family in FAMILIES.items():
        for key in VALUES.keys() & family.values.keys():
            assert all(len(tokenizer.encode(write_piece((key, value)) + "\n")) == 4 for value in VALUES[key])
            assert len(tokenizer.encode(key)) == 1
        for _ in range(60):
            rule = draw_rule(rng, "train", name)
            question = family.ask(rng, rng.choice(rule.asked))
            for values in ({}, rule.values):
                assert len(tokenizer.encode(family.answer(question, values) + "\n")) <= (10 if name == "sql" else 6)


def test_the_longest_prompts_take_at_most_256_tokens(tokenizer):
    for environment in TinyRules().environments("heldout", 12):
        summary = [Evaluated(problem, problem.truth, Verdict(1.0)) for problem in environment.pool]
        summary.sort(key=lambda line: len(tokenizer.encode(line.problem.question + line.problem.truth)))
        lines = oracle_instruction(environment).split("\n")
        longest = "\n".join((lines * LINES)[:LINES])
        prompt = LineFormat().edit_prompt(environment, longest, summary[-6:])
        assert len(tokenizer.encode(prompt)) <= 256
        assert all(len(tokenizer.encode(environment.prompt(problem, longest))) <= 128 for problem in environment.pool)


def test_the_tokenizer_takes_any_text(tokenizer):
    for text in ("naïve {x} 0.5", "apples = t77\n\n?c3 ->  | ", "SELECT  COUNT(*) FROM x"):
        assert tokenizer.decode(tokenizer.encode(text)) == text
