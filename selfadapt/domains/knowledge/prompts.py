"""The texts that a model is asked with: prompts for an edit and for an answer (SEAL, arXiv 2506.10943, appendix B)."""

from __future__ import annotations

import dataclasses
import difflib
import pathlib
import string

from selfadapt.errors import InvalidValueError


@dataclasses.dataclass(frozen=True)
class Prompt:
    """The two forms of one request for an edit.

    Attributes:
      base: for a base model, which continues the text.
      instruct: for an instruct model: the user's turn.

    Both are `str.format` templates of `{title}` and `{context}`.
    """

    base: str
    instruct: str


_PASSAGE = "Passage:\n{title}\n{context}\n\n"


def _prompt(task: str, heading: str, reply: str) -> Prompt:
    return Prompt(f"{task}\n\n{_PASSAGE}{heading}", f"{task} {reply}\n\n{_PASSAGE}".rstrip())


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
    "rewrite": _prompt(
        "Below is a passage. Say the whole of it again several times, each time in other words "
        "and on a line of its own.",
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
}
ANSWER_STYLES = ("full", "short")

SYSTEM = "You prepare study notes from passages. You add nothing that a passage does not support."


def _check_template(text: str, source: str) -> None:
    try:
        fields = [(name, spec, how) for _, name, spec, how in string.Formatter().parse(text) if name is not None]
    except ValueError as error:
        raise InvalidValueError(f"{source}: {error}; a literal brace is written twice: '{{{{' or '}}}}'") from None
    for name, spec, how in fields:
        if name not in ("title", "context") or spec or how:
            written = "{" + name + (f"!{how}" if how else "") + (f":{spec}" if spec else "") + "}"
            raise InvalidValueError(
                f"{source}: unknown placeholder {written}; a template has {{title}} and {{context}}, "
                "and a literal brace is written twice: '{{' or '}}'"
            )
    for name in ("title", "context"):
        if name not in {field for field, _, _ in fields}:
            raise InvalidValueError(
                f"{source}: the placeholder {{{name}}} is missing; a template needs {{title}} and {{context}}"
            )


def load_template(path: str | pathlib.Path) -> str:
    """Reads an edit prompt of the user's own.

    Args:
      path: a UTF-8 text file with `{title}` and `{context}`; a literal brace is doubled.

    Returns:
      The template, for `edit_prompt` and `edit_messages`.

    Raises:
      ValueError: a placeholder is unknown or missing, or the file is not UTF-8; the message names the file.
      FileNotFoundError: there is no such file.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such prompt template; the built-in keys are {', '.join(PROMPTS)}")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InvalidValueError(
            f"{path}: a prompt template is UTF-8 text ({error.reason} at byte {error.start})"
        ) from None
    _check_template(text, str(path))
    return text


def _resolve(template: str) -> Prompt:
    if template in PROMPTS:
        return PROMPTS[template]
    if "{" not in template and "\n" not in template:
        near = difflib.get_close_matches(template, PROMPTS, n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise InvalidValueError(f"there is no edit prompt {template!r}{hint} (the keys are {', '.join(PROMPTS)})")
    _check_template(template, "the edit prompt's template")
    return Prompt(template, template)


def edit_prompt(template: str, *, title: str, context: str) -> str:
    r"""Returns the text that a base model continues with its edit.

    Args:
      template: a key of `PROMPTS`, or a template's text (see `load_template`).
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


def answer_prompt(question: str, *, title: str = "", style: str = "full", context: str = "") -> str:
    """Returns the text that the adapted model answers, as a rule without the passage.

    Args:
      question: the question.
      title: the passage's title, given as the topic; "" leaves the topic out.
      style: "full" with an instruction, or "short", the bare form that the embedded model was pretrained on.
      context: a text to answer from, "" for none.

    Raises:
      ValueError: there is no such style.

    >>> print(answer_prompt("Who wrote it?", title="Ada Lovelace"))
    Give the answer to the question and nothing else.
    <BLANKLINE>
    Topic: Ada Lovelace
    Question: Who wrote it?
    Answer:
    """
    if style not in ANSWER_STYLES:
        raise InvalidValueError(f"there is no answer style {style!r}; choose one of {', '.join(ANSWER_STYLES)}")
    given = f"{context}\n" if context else ""
    if style == "short":
        return (f"{title}\n" if title else "") + f"{given}Question: {question} Answer:"
    topic = (f"Topic: {title}\n" if title else "") + given
    return f"Give the answer to the question and nothing else.\n\n{topic}Question: {question}\nAnswer:"
