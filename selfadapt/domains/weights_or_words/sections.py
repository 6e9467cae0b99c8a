r"""How an edit says in what way its lines are applied: a marker opens a section, "words:" or "weights:".

    words:
    apple = K
    weights:
    pug = R
    teas = B

The lines under "words:" are put into the prompt of the model that answers; those under "weights:" are trained on. An
edit has either section, or both.
"""

from __future__ import annotations

import dataclasses

from selfadapt.errors import InvalidEdit

WORDS, WEIGHTS, BOTH = "words", "weights", "both"
SECTIONS = (WORDS, WEIGHTS)
FREE = "free"  # where the author of an edit chooses its sections


@dataclasses.dataclass(frozen=True)
class Sections:
    """The lines of an edit by the way in which they are applied.

    Attributes:
      words: the lines of the prompt.
      weights: the lines to train on.
    """

    words: tuple[str, ...] = ()
    weights: tuple[str, ...] = ()

    @property
    def way(self) -> str:
        """How the edit is applied: "words", "weights" or "both"."""
        return BOTH if self.words and self.weights else WORDS if self.words else WEIGHTS

    def write(self) -> str:
        r"""Returns the edit.

        >>> Sections(("apple = K",), ("pug = R", "teas = B")).write()
        'words:\napple = K\nweights:\npug = R\nteas = B'
        """
        return "\n".join("\n".join((marker(name), *lines)) for name in SECTIONS if (lines := getattr(self, name)))


def marker(name: str) -> str:
    """Returns the line that opens a section."""
    return f"{name}:"


def parse_sections(text: str, *, most_words: int) -> Sections:
    r"""Returns the sections of an edit, without empty lines.

    Args:
      text: what the policy wrote.
      most_words: the most lines that may be put into a prompt.

    Raises:
      InvalidEdit: the text does not begin with a marker, a marker occurs twice, or a section has no lines or too many.

    >>> parse_sections("weights:\npug = R", most_words=12)
    Sections(words=(), weights=('pug = R',))
    """
    found: dict[str, list[str]] = {}
    current = None
    markers = {marker(name): name for name in SECTIONS}
    for line in filter(None, map(str.strip, text.split("\n"))):
        if line in markers:
            current = markers[line]
            if current in found:
                raise InvalidEdit(f"the marker {line!r} occurs twice")
            found[current] = []
        elif current is None:
            raise InvalidEdit(f"the edit does not begin with {' or '.join(map(repr, markers))}")
        else:
            found[current].append(line)
    if not found:
        raise InvalidEdit("the edit is empty")
    for name, lines in found.items():
        if not lines:
            raise InvalidEdit(f"there are no lines under {marker(name)!r}")
    if (count := len(found.get(WORDS, ()))) > most_words:
        raise InvalidEdit(f"there are {count} lines under {marker(WORDS)!r}, over {most_words}")
    return Sections(**{name: tuple(lines) for name, lines in found.items()})
