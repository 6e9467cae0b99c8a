"""The prompts for edits and answers, and the templates that replace them."""

import json

import pytest

from selfadapt.domains.knowledge.prompts import (
    PROMPTS,
    answer_prompt,
    edit_marker,
    edit_messages,
    edit_prompt,
    load_answer_template,
    load_edit_template,
    parse_answer,
)
from selfadapt.errors import UserError


def test_every_prompt_holds_title_and_passage_in_both_forms():
    keys = {"implications", "implications-long", "implications-very-long", "implications-cot"}
    keys |= {"rewrite", "self-qa", "none", "notes", "questions", "notes-questions"}
    assert set(PROMPTS) == keys
    for key in keys:
        base = edit_prompt(key, title="Ada {x}", context="She {0} wrote.")
        system, user = edit_messages(key, title="Ada {x}", context="She {0} wrote.")
        assert "Ada {x}\nShe {0} wrote." in base and "Ada {x}\nShe {0} wrote." in user["content"]
        assert (system["role"], user["role"]) == ("system", "user")
    assert len({edit_prompt(key, title="a", context="b") for key in keys}) == len(keys)
    assert edit_prompt("self-qa", title="a", context="b").endswith("Question 1: ")


def test_the_wording_is_not_seals(seal_data):
    theirs = json.loads((seal_data / "seal/knowledge/base_val.json").read_text())[0]
    ours = edit_prompt("implications", title=theirs["title"], context=theirs["context"])
    shared = [line for line in ours.splitlines() if line in theirs["prompt"].splitlines()]
    assert set(shared) <= {"", "Passage:", theirs["title"], *theirs["context"].splitlines()}


def test_a_users_template_is_used_in_both_forms(tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text("{{note}} {title}: {context}\nSo:")
    template = load_edit_template(path)
    assert edit_prompt(template, title="A", context="B") == "{note} A: B\nSo:"
    assert edit_messages(template, title="A", context="B")[1]["content"] == "{note} A: B\nSo:"


def test_a_misspelt_key_suggests_the_nearest():
    with pytest.raises(UserError, match="no edit prompt 'implicatons'; did you mean 'implications'"):
        edit_prompt("implicatons", title="", context="")
    with pytest.raises(
        UserError, match=r"no answer prompt 'ful'; did you mean 'full'\? \(choose one of full, short, cot, or"
    ):
        answer_prompt("Who?", style="ful")


def test_the_answer_prompt_gives_the_topic_where_there_is_one():
    assert "Topic: Ada\nQuestion: Who?\nAnswer:" in answer_prompt("Who?", title="Ada")
    assert "Topic" not in answer_prompt("Who?")


@pytest.mark.parametrize("style", ["full", "short", "cot"])
def test_a_context_to_answer_from_stands_before_the_question(style):
    text = answer_prompt("Who?", title="Ada", style=style, context="She wrote.")
    assert "Ada\nShe wrote.\nQuestion: Who?" in text


def test_a_users_answer_template_is_filled_with_question_title_and_context(tmp_path):
    path = tmp_path / "answer.txt"
    path.write_text("{{{title}}} {context} Q {question} A")
    template = load_answer_template(path)
    assert answer_prompt("Why {x}?", title="T", style=template, context="C") == "{T} C Q Why {x}? A"
    assert answer_prompt("Why?", style=template) == "{}  Q Why? A"


def test_an_answer_template_needs_the_question_and_a_place_for_a_given_context(tmp_path):
    path = tmp_path / "answer.txt"
    path.write_text("{title}\nAnswer:")
    with pytest.raises(UserError, match=r"answer\.txt: the placeholder \{question\} is missing; a template needs"):
        load_answer_template(path)
    path.write_text("{question} {answer}")
    with pytest.raises(
        UserError, match=r"answer\.txt: unknown placeholder \{answer\}; .*may have \{title\} and \{context"
    ):
        load_answer_template(path)
    with pytest.raises(UserError, match=r"has no \{context\}"):
        answer_prompt("Who?", style="{question}", context="She wrote.")


def test_the_chain_of_thought_prompts_ask_for_thoughts_and_then_for_the_marked_part():
    written = edit_prompt("implications-cot", title="Ada", context="She wrote.")
    assert written.endswith("Passage:\nAda\nShe wrote.\n\nThoughts:\n") and '"Implications:"' in written
    assert {key for key in PROMPTS if edit_marker(key)} == {"implications-cot"}
    assert edit_marker("{title} {context}") == ""
    assert "<answer>" in answer_prompt("Who?", style="cot")


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("It was she. <answer>Ada\nL. </answer>", "Ada\nL."),
        ("<answer>Ada</answer> Question: Who? <answer>Bob</answer>", "Ada"),
        ("Ada", ""),
        ("<answer>Ada", ""),
        ("Ada</answer>", ""),
        ("<answer> </answer>", ""),
    ],
)
def test_an_answer_after_thoughts_is_what_the_first_answer_tags_hold(text, answer):
    assert parse_answer(text) == answer
