"""Prompts for an edit and for an answer (the tasks of SEAL, arXiv 2506.10943, appendix B, in our own words)."""

from __future__ import annotations

import dataclasses
import difflib
import os
import re
from collections.abc import Iterable

from selfadapt.errors import InvalidValueError
from selfadapt.templates import SUFFIX, check_template, load_template


@dataclasses.dataclass(frozen=True)
class Prompt:
    """The two forms of one request for an edit.

    Attributes:
      base: for a base model, which continues the text.
      instruct: for an instruct model: the user's turn.
      marker: what the line begins with after which the edit proper starts; "" if the whole text is the edit.

    `base` and `instruct` are `str.format` templates of `{title}` and `{context}`.
    """

    base: str
    instruct: str
    marker: str = ""


_PASSAGE = "Passage:\n{title}\n{context}\n\n"


def _prompt(task: str, heading: str, reply: str, marker: str = "") -> Prompt:
    return Prompt(f"{task}\n\n{_PASSAGE}{heading}", f"{task} {reply}\n\n{_PASSAGE}".rstrip(), marker)


_LINES = "Reply with the statements alone, one on each line."

PROMPTS: dict[str, Prompt] = {
    "implications": _prompt(
        "Below is a passage. Write down what follows from it, stated outright or only implied.",
        "What follows from it:\n",
        _LINES,
    ),
    "implications-long": _prompt(
        "Below is a passage. Write down at length what follows from it, stated outright or only implied: "
        "leave out no fact.",
        "A long list of what follows from it:\n",
        _LINES,
    ),
    "implications-very-long": _prompt(
        "Below is a passage. Write down exhaustively what follows from it, stated outright or only implied: "
        "every fact, every relation between two facts, every consequence, each in several wordings.",
        "A very long list of what follows from it:\n",
        _LINES,
    ),
    "implications-cot": _prompt(
        "Below is a passage. First think in writing about which of its facts matter and what they lead to. Then, under "
        'a line "Implications:", write down what follows from the passage, stated outright or only implied.',
        "Thoughts:\n",
        'Write the thoughts, then the line "Implications:", then the statements, one on each line.',
        marker="Implications:",  # the marker of SEAL's code
    ),
    "rewrite": _prompt(
        "Below is a passage. Say the whole of it again several times, each time in other words and on a separate line.",
        "The passage in other words:\n",
        "Reply with the new versions alone.",
    ),
    "self-qa": _prompt(
        "Below is a passage. Turn it into questions and their answers, so that together they hold all it says.",
        "Question 1: ",
        'Number them: write each as "Question 1:" and, on the next line, "Answer:".',
    ),
    "none": Prompt("{title}\n{context}\n", "{title}\n{context}"),
    # What the embedded model was pretrained on; short, since its context is.
    "notes": Prompt("{title}\n{context}\nNotes:\n", "{title}\n{context}\n\nTake notes."),
    # For `config.domain.written.prompt`; the second makes the embedded model begin its notes with a question.
    "questions": _prompt(
        "Below is a passage. Write questions about its facts, each with one short answer. Name what you ask about, so "
        "that whoever has not seen the passage understands the question.",
        "Question 1: ",
        'Number them: write each as "Question 1:" on a line of its own, without the answer.',
    ),
    "notes-questions": Prompt(
        "{title}\n{context}\nNotes:\nQuestion:", "{title}\n{context}\n\nTake notes as questions."
    ),
}
# The answer prompts: with an instruction, the bare form that the embedded model was pretrained on, and with reasoning
# before the answer.
ANSWER_STYLES = ("full", "short", "cot")

EDIT_FIELDS = ("title", "context")
ANSWER_FIELDS = ("question",)

_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)

SYSTEM = "You prepare study notes from passages. You add nothing that a passage does not support."


def load_edit_template(path: str | os.PathLike, *, field: str = "") -> str:
    """Reads a user's edit prompt, for `edit_prompt` and `edit_messages`.

    Args:
      path: a UTF-8 text file with `{title}` and `{context}`; a literal brace is doubled.
      field: the config field that names the file, for errors.

    Raises:
      InvalidValueError: there is no such file, it is not UTF-8, or a placeholder is unknown or missing.
    """
    return load_template(path, EDIT_FIELDS, field=field)


def load_answer_template(path: str | os.PathLike, *, field: str = "") -> str:
    """Reads a user's answer prompt, for `answer_prompt`.

    Args:
      path: a UTF-8 text file with `{question}`, and `{title}` and `{context}` if wanted.
      field: the config field that names the file, for errors.

    Raises:
      InvalidValueError: there is no such file, it is not UTF-8, or a placeholder is unknown or missing.
    """
    return load_template(path, ANSWER_FIELDS, ("title", "context"), field=field)


def _resolve(template: str) -> Prompt:
    if template in PROMPTS:
        return PROMPTS[template]
    if "{" not in template and "\n" not in template:
        raise InvalidValueError(_unknown("edit prompt", template, PROMPTS))
    check_template(template, "the edit prompt's template", EDIT_FIELDS)
    return Prompt(template, template)


def _unknown(what: str, given: str, known: Iterable[str]) -> str:
    known = list(known)
    near = difflib.get_close_matches(given, known, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"there is no {what} {given!r}{hint} (choose one of {', '.join(known)}, or a template file, {SUFFIX})"


def edit_prompt(template: str, *, title: str, context: str) -> str:
    r"""Returns the text that a base model continues with its edit.

    Args:
      template: a key of `PROMPTS`, or a template's text (see `load_edit_template`).
      title: the passage's title.
      context: the passage.

    Raises:
      ValueError: the key is unknown, or the template's placeholders are wrong.

    >>> edit_prompt("none", title="Ada Lovelace", context="She wrote programs.")
    'Ada Lovelace\nShe wrote programs.\n'
    """
    return _resolve(template).base.format(title=title, context=context)


def edit_messages(template: str, *, title: str, context: str) -> list[dict[str, str]]:
    """Returns the chat that an instruct model answers with its edit; arguments as for `edit_prompt`.

    >>> [turn["role"] for turn in edit_messages("rewrite", title="Ada Lovelace", context="She wrote programs.")]
    ['system', 'user']
    """
    user = _resolve(template).instruct.format(title=title, context=context)
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": user}]


def edit_marker(template: str) -> str:
    """Returns the marker of an edit prompt (`Prompt.marker`); arguments as for `edit_prompt`.

    >>> edit_marker("implications-cot"), edit_marker("implications")
    ('Implications:', '')
    """
    return _resolve(template).marker


def answer_prompt(question: str, *, title: str = "", style: str = "full", context: str = "") -> str:
    """Returns the text that the adapted model answers, by default without the passage.

    Args:
      question: the question.
      title: the passage's title, given as the topic; "" for none.
      style: a key of `ANSWER_STYLES`, or a template's text (see `load_answer_template`).
      context: a text to answer from; "" for none.

    Raises:
      InvalidValueError: there is no such style, the template's placeholders are wrong, or it has no place for the
        context.

    >>> print(answer_prompt("Who wrote it?", title="Ada Lovelace"))
    Give the answer to the question and nothing else.
    <BLANKLINE>
    Topic: Ada Lovelace
    Question: Who wrote it?
    Answer:
    >>> answer_prompt("Who wrote it?", title="Ada Lovelace", style="{title}: {question}")
    'Ada Lovelace: Who wrote it?'
    """
    given = f"{context}\n" if context else ""
    if style == "short":
        return (f"{title}\n" if title else "") + f"{given}Question: {question} Answer:"
    topic = (f"Topic: {title}\n" if title else "") + given
    if style == "full":
        return f"Give the answer to the question and nothing else.\n\n{topic}Question: {question}\nAnswer:"
    if style == "cot":
        task = "Think about the question step by step. Then write the answer alone between <answer> and </answer>."
        return f"{task}\n\n{topic}Question: {question}\nThoughts:"
    if "{" not in style and "\n" not in style:
        raise InvalidValueError(_unknown("answer prompt", style, ANSWER_STYLES))
    check_template(style, "the answer prompt's template", ANSWER_FIELDS, ("title", "context"))
    answer = style.format(question=question, title=title, context=context)
    if context and "{context}" not in style:
        raise InvalidValueError("the answer prompt's template has no {context}, and there is a context to answer from")
    return answer


def parse_answer(text: str) -> str:
    """Returns the answer that the prompt "cot" asks for: between the first pair of answer tags; "" if there is none.

    The first pair counts, since a base model may continue with further questions.

    >>> parse_answer("She was the first. <answer> Ada </answer> Question: Who else? <answer>Bob</answer>")
    'Ada'
    """
    found = _ANSWER.search(text)
    return found[1].strip() if found else ""
