"""The format for Hugging Face models: prompts, answers, chats."""

import pytest

from selfadapt.domains.arc import ArcTask, Directive, JsonFormat, Pair, check_grid

GRIDS = [check_grid(grid) for grid in ([[1, 2]], [[2, 1]], [[3, 4], [5, 6]], [[4, 3], [6, 5]])]
TASK = ArcTask("t", (Pair(GRIDS[0], GRIDS[1]), Pair(GRIDS[2], GRIDS[3])), (GRIDS[1],), (GRIDS[0],))
SHOWN = "Input:\n1 2\nOutput:\n2 1\n\nInput:\n3 4\n5 6\nOutput:\n4 3\n6 5\n\n"


class Tokenizer:
    """A chat template that marks turns, and the token that ends one."""

    bos_token_id, eos_token = None, "<end>"

    def apply_chat_template(self, messages, tokenize, add_generation_prompt):
        assert not tokenize and add_generation_prompt
        return "".join(f"<{turn['role']}>{turn['content']}<end>" for turn in messages) + "<assistant>"


def test_the_edit_prompt_shows_the_demonstrations_and_never_a_test():
    prompt = JsonFormat().edit_prompt(TASK)
    assert prompt.count(SHOWN) == 1 and prompt.count("Input:") == 2
    assert JsonFormat("{examples}Now: {{}}").edit_prompt(TASK) == f"{SHOWN}Now: {{}}"
    chat = JsonFormat("{examples}Now", policy=Tokenizer())
    assert chat.edit_prompt(TASK) == f"<user>{SHOWN}Now<end><assistant>"
    assert "<user>" not in chat.answer_prompt(TASK.train, TASK.tests[0])


def test_an_answer_follows_its_prompt_as_one_more_example_would():
    style = JsonFormat()
    prompt = style.answer_prompt(TASK.train[:1], TASK.train[1].input)
    assert prompt.endswith(SHOWN.removesuffix("4 3\n6 5\n\n"))
    assert (prompt + style.answer(TASK.train[1].output)).endswith(SHOWN)


def test_in_a_chat_the_examples_are_the_systems_turn_and_the_answer_ends_its_own():
    style = JsonFormat(student=Tokenizer())
    prompt = style.answer_prompt(TASK.train, TASK.tests[0])
    assert prompt.startswith("<system>") and prompt.endswith("<user>Input:\n2 1\nOutput:\n<end><assistant>")
    assert style.answer(TASK.solutions[0]) == "1 2<end>"
    assert SHOWN.strip() in prompt and "<user>" not in style.edit_prompt(TASK)


@pytest.mark.parametrize(("text", "grid"), [("1 2", 0), ("\n3 4\n5 6\n\nInput:\n1 2", 2), ("1 2 x", None), ("", None)])
def test_an_answer_is_the_grid_before_the_first_empty_line(text, grid):
    assert JsonFormat().parse_answer(text) == (None if grid is None else GRIDS[grid])


def test_a_directive_is_read_as_it_is_written():
    directive = Directive(False, True, False, True, "all", 3e-4, 7)
    assert JsonFormat().parse_directive(JsonFormat().directive_text(directive)) == directive
