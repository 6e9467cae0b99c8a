"""The division of a database's questions, as LSE's code draws it (arXiv 2603.18620)."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import NamedTuple

from selfadapt.domains.sql.questions import SqlQuestion
from selfadapt.errors import InvalidValueError


class Holdout(NamedTuple):
    """A division of one database's questions, as LSE draws it.

    Attributes:
      train: the questions to take batches from, in the file's order; without those of `dev` and `test`.
      dev: the fixed holdout that instructions are scored on, in the order drawn.
      test: a second holdout, that nothing is chosen by; of another database if `elsewhere` was set.
    """

    train: tuple[SqlQuestion, ...]
    dev: tuple[SqlQuestion, ...]
    test: tuple[SqlQuestion, ...] = ()


def holdout(
    questions: Sequence[SqlQuestion],
    *,
    seed: int,
    dev: int,
    test: int = 0,
    database: str | None = None,
    elsewhere: bool = False,
) -> Holdout:
    """Draws the holdouts of a run; for the same file and seed, those of LSE's code (arXiv 2603.18620).

    Each of the two is drawn with a separate generator, `random.Random(seed)`: first a database, where it is open, by
    `choice` from the sorted names; then the questions by `sample` from those of the database, in the file's order.

    Args:
      questions: all questions, of one or several databases.
      seed: the run's seed.
      dev: size of the holdout that instructions are scored on; the paper has 50.
      test: size of the second holdout, 0 for none.
      database: the database; `None` to draw one.
      elsewhere: draw the second holdout from another database.

    Raises:
      InvalidValueError: there is no such database, or it has too few questions to leave one for training.
    """
    names = sorted({question.database for question in questions})
    if database is not None and database not in names:
        raise InvalidValueError(
            f"there is no database {database!r} among the questions; it is one of {', '.join(names)}"
        )
    if dev < 1 or test < 0:
        raise InvalidValueError(
            f"holdouts of {dev} and {test} questions; the first has at least 1, the second 0 or more"
        )
    draw = random.Random(seed)
    database = draw.choice(names) if database is None else database
    dev_set = _sample(draw, questions, database, dev)
    draw = random.Random(seed)
    if not test:
        test_set: tuple[SqlQuestion, ...] = ()
    elif elsewhere:
        others = [name for name in names if name != database]
        if not others:
            raise InvalidValueError(f"there is no other database than {database!r} for the second holdout")
        test_set = _sample(draw, questions, draw.choice(others), test)
    else:
        test_set = _sample(draw, [question for question in questions if question not in dev_set], database, test)
    train = tuple(q for q in questions if q.database == database and q not in dev_set and q not in test_set)
    if not train:
        raise InvalidValueError(f"the holdouts take all questions of {database!r}; make them smaller")
    return Holdout(train, dev_set, test_set)


def _sample(
    draw: random.Random, questions: Sequence[SqlQuestion], database: str, count: int
) -> tuple[SqlQuestion, ...]:
    pool = [question for question in questions if question.database == database]
    if len(pool) < count:
        raise InvalidValueError(f"a holdout of {count} questions of {database!r}, which has {len(pool)} to draw from")
    return tuple(draw.sample(pool, count))
