"""How an instruct model is asked for an instruction, and what of its reply is one."""

import pytest

from selfadapt.domains.instructions.environment import Evaluated, Problem, Verdict
from selfadapt.domains.instructions.style import TaggedStyle
from selfadapt.errors import InvalidEdit

SUMMARY = (
    Evaluated(Problem("0", "3 + 4?", "12"), "7", Verdict(0.0, "x" * 600)),
    Evaluated(Problem("1", "1 + 1?", "2"), "2", Verdict(1.0)),
)


def test_the_prompt_shows_the_instruction_and_of_each_problem_what_came_of_it():
    text = TaggedStyle().edit_prompt(None, "Add {up}.", SUMMARY)
    assert "<current>\nAdd {up}.\n</current>" in text and "answered 2 problems, 1 of them correctly" in text
    assert "Problem 1 (wrong)\n3 + 4?\nAnswer:\n7\nRight answer:\n12\nError:\n" + "x" * 500 + "\n\n" in text
    assert "Problem 2 (correct)\n1 + 1?\nAnswer:\n2\nRight answer:\n2\n\n" in text


def test_a_chat_template_writes_the_prompt_as_a_users_turn():
    class Tokenizer:
        bos_token_id = None

        def apply_chat_template(self, messages, **options):
            return f"[{messages[0]['role']}] {messages[0]['content']} [assistant]"

    text = TaggedStyle("{instruction} {summary}", Tokenizer()).edit_prompt(None, "Add.", ())
    assert text == "[user] Add.  [assistant]"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Add in base five.", "there is no instruction between <prompt> and </prompt>"),
        ("<prompt>Add in base five.", "there is no instruction"),
        ("<prompt> Add five </prompt>", None),
        ("<prompt> Add six. </prompt>", "the instruction has fewer than 10 characters"),
    ],
)
def test_an_instruction_needs_its_tags_and_ten_characters(text, reason):
    text = text.replace("Add five", "Add fives.")
    if reason is None:
        assert TaggedStyle().parse_edit(f"Bases matter. {text} Done.") == "Add fives."
    else:
        with pytest.raises(InvalidEdit, match=reason):
            TaggedStyle().parse_edit(text)
