"""The splits that tasks of the embedded models' worlds come in, which are drawn by number and have no end."""

from __future__ import annotations

from selfadapt.errors import InvalidValueError

SPLITS = ("train", "heldout")


def numbers(world: str, split: str, count: int, round: int) -> range:
    """Returns the numbers of `count` tasks: new ones each round for "train", always the same for "heldout".

    Raises:
      InvalidValueError: there is no such split; the message has the name of the world.
    """
    if split not in SPLITS:
        raise InvalidValueError(f"{world} has no split {split!r}; choose one of {', '.join(SPLITS)}")
    first = count * round if split == "train" else 0
    return range(first, first + count)
