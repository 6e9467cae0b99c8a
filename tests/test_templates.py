"""Templates of prompts: filled as written, refused with the file, the field and the remedy."""

import pytest

from selfadapt.errors import UserError
from selfadapt.templates import check_template, load_template


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{title} {passage} {context}", r"unknown placeholder \{passage\}; a template needs \{title\} and \{context\}"),
        ("{title!r} {context}", r"unknown placeholder \{title!r\}"),
        ("{title:>9} {context}", r"unknown placeholder \{title:>9\}"),
        ("{title.upper} {context}", r"unknown placeholder \{title\.upper\}"),
        ("{} {title} {context}", r"unknown placeholder \{\}"),
        ("{title} alone", r"the placeholder \{context\} is missing"),
        ("no title {context}", r"the placeholder \{title\} is missing"),
        ("{title} {context", r"literal brace is written twice"),
    ],
)
def test_a_wrong_template_is_refused_with_its_field_its_file_and_the_remedy(tmp_path, text, message):
    path = tmp_path / "mine.txt"
    path.write_text(text)
    with pytest.raises(UserError, match=rf"^config\.domain\.prompt: .*mine\.txt: .*{message}"):
        load_template(path, ["title", "context"], field="config.domain.prompt")


def test_an_absent_file_and_one_that_is_not_text_are_named(tmp_path):
    with pytest.raises(UserError, match=r"none\.txt: the prompt template cannot be read \(No such file.*\{title\}"):
        load_template(tmp_path / "none.txt", ["title"])
    path = tmp_path / "latin.txt"
    path.write_bytes("{title} caf\xe9".encode("latin-1"))
    with pytest.raises(UserError, match=r"latin\.txt: a prompt template is UTF-8 text \(.* at byte 11\)"):
        load_template(path, ["title"])


def test_optional_placeholders_may_be_left_out_and_braces_doubled(tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text("{{}} {a}")
    assert load_template(path, ["a"], ["b"]).format(a=1, b=2) == "{} 1"
    assert check_template("{a}{b}", "here", ["a"], ["b"]) == "{a}{b}"
    with pytest.raises(
        UserError, match=r"^here: unknown placeholder \{c\}; a template needs \{a\}, and may have \{b\}"
    ):
        check_template("{a}{c}", "here", ["a"], ["b"])
