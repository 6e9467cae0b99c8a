"""What generated databases are about: their tables, columns and words, and the questions that are asked of each."""

from __future__ import annotations

from typing import NamedTuple


class Theme(NamedTuple):
    """A database about events: who took part, in what, when, in which state, and for how much money.

    Attributes:
      database: its name.
      people: plural and singular of those who take part; the plural is the table's name, as in all pairs.
      events: of the events.
      items: of what the events are about; empty for a database without that table.
      kind: the column that classifies items, "" without items.
      kinds: its values.
      states: the values of the events' status.
      money: the column with the amount of an event.
      date: the column with its date.
      towns: whether towns are a separate table, and not a column of the people.
    """

    database: str
    people: tuple[str, ...]
    events: tuple[str, ...]
    items: tuple[str, ...]
    kind: str
    kinds: tuple[str, ...]
    states: tuple[str, ...]
    money: str
    date: str
    towns: bool


class Template(NamedTuple):
    """A question and its gold statement, with places for the words and the SQL of a database (see `generate.py`)."""

    difficulty: str
    text: str
    sql: str


# In the order of Theme's fields; - for nothing.
_THEMES = """
shop    customers,customer orders,order         products,product category toys,books,tools open,shipped,returned
        price  placed  column
clinic  patients,patient   visits,visit         doctors,doctor   field    surgery,neurology planned,completed,missed
        fee    day     column
library members,member     loans,loan           books,book       genre    novel,poetry,travel open,returned,overdue
        fine   taken   column
school  pupils,pupil       enrolments,enrolment courses,course   subject  music,history   requested,confirmed,cancelled
        fee    starts  table
gym     members,member     bookings,booking     -                -        -               made,used,missed
        charge day     column
hotel   guests,guest       stays,stay           rooms,room       comfort  plain,suite     reserved,finished,cancelled
        price  arrival table
"""

# The difficulty, the question and the statement of each. Places in capitals are tables and columns.
_TEMPLATES = """
simple
How many {events} are {state}?
SELECT COUNT(*) FROM {EVENTS} WHERE {is_state}{live}

simple
How many {events} are from the year {year}?
SELECT COUNT(*) FROM {EVENTS} WHERE {in_year}{live}

simple
How many {events} have a {money} of more than {amount} euros?
SELECT COUNT(*) FROM {EVENTS} WHERE {is_over}{live}

simple
What is the highest {money} of all {events}, in euros, rounded to cents?
SELECT ROUND(MAX({MONEY}){in_euros}, 2) FROM {EVENTS}{only_live}

simple
What are the names of the {people} from {town}?
SELECT {PEOPLE}.name FROM {PEOPLE_OF_TOWNS} WHERE {TOWN} = '{town}'

moderate
Which {people} have at least one {event} that is {state}? Give their names.
SELECT DISTINCT {PEOPLE}.name FROM {EVENTS_OF_PEOPLE} WHERE {is_state}{live}

moderate
How many {events} does each {person} from {town} have? Give the names and the numbers; leave out those without any.
SELECT {PEOPLE}.name, COUNT(*) FROM {EVENTS_OF_PEOPLE} WHERE {TOWN} = '{town}'{live} GROUP BY {PEOPLE}.name

moderate
What is the total {money} of the {events} that are {state}, in euros, rounded to cents?
SELECT ROUND(SUM({MONEY}){in_euros}, 2) FROM {EVENTS} WHERE {is_state}{live}

moderate
How many {events} from {year} does each {kind} have? Give the {kind} and the number.
SELECT {KIND}, COUNT(*) FROM {EVENTS_OF_ITEMS} WHERE {in_year}{live} GROUP BY {KIND}

moderate
What are the names of the {items} of {events} that are {state}?
SELECT DISTINCT {ITEMS}.name FROM {EVENTS_OF_ITEMS} WHERE {is_state}{live}

moderate
Which {count} {people} have the highest total {money}? Give their names; at equal totals, in alphabetical order.
SELECT {PEOPLE}.name FROM {EVENTS_OF_PEOPLE}{only_live}
GROUP BY {PEOPLE}.name ORDER BY SUM({MONEY}) DESC, {PEOPLE}.name LIMIT {count}

challenging
Which {people} have at least {count} {events} from {year}? Give their names.
SELECT {PEOPLE}.name FROM {EVENTS_OF_PEOPLE} WHERE {in_year}{live} GROUP BY {PEOPLE}.name HAVING COUNT(*) >= {count}

challenging
What are the ids of the {events} that are {state} and have a {money} over the average of all {events}?
SELECT {event}_id FROM {EVENTS}
WHERE {is_state}{live} AND {MONEY} > (SELECT AVG({MONEY}) FROM {EVENTS}{only_live})

challenging
Which {people} from {town} have no {event} that is {state}? Give their names.
SELECT {PEOPLE}.name FROM {PEOPLE_OF_TOWNS} WHERE {TOWN} = '{town}'
AND {PEOPLE}.{person}_id NOT IN (SELECT {EVENTS}.{person}_id FROM {EVENTS} WHERE {is_state}{live})

challenging
What percentage of the {events} from {year} are {state}? Round it to 2 decimals.
SELECT ROUND(100.0 * SUM({is_state}) / COUNT(*), 2) FROM {EVENTS} WHERE {in_year}{live}

challenging
What is the average {money} of the {events} that are {state}, in euros, rounded to cents, for each town?
SELECT {TOWN}, ROUND(AVG({MONEY}){in_euros}, 2) FROM {EVENTS_OF_PEOPLE} WHERE {is_state}{live} GROUP BY {TOWN}

challenging
Which {kind} has the highest total {money} in {year}, and how much is it in euros, rounded to cents?
SELECT {KIND}, ROUND(SUM({MONEY}){in_euros}, 2) FROM {EVENTS_OF_ITEMS} WHERE {in_year}{live}
GROUP BY {KIND} ORDER BY SUM({MONEY}) DESC LIMIT 1
"""

TOWNS = ("Aldport", "Brenford", "Calmont", "Dunwick", "Elmstead")
FIRST_NAMES = ("Ada", "Bela", "Chen", "Dora", "Emil", "Fatima", "Goran", "Hana", "Ivo", "Jun", "Kofi", "Lea")
LAST_NAMES = (
    "Adler",
    "Bakker",
    "Costa",
    "Duarte",
    "Egger",
    "Farkas",
    "Gallo",
    "Horvat",
    "Ito",
    "Jansen",
    "Kaya",
    "Lind",
)
ITEM_NAMES = (
    "Amber",
    "Birch",
    "Cedar",
    "Dahlia",
    "Ember",
    "Fern",
    "Garnet",
    "Hazel",
    "Iris",
    "Jasper",
    "Kelp",
    "Laurel",
)


def _themes() -> tuple[Theme, ...]:
    words = iter(_THEMES.split())
    rows = list(zip(*[words] * len(Theme._fields), strict=True))

    def several(word: str) -> tuple[str, ...]:
        return () if word == "-" else tuple(word.split(","))

    return tuple(
        Theme(
            *(row[0], several(row[1]), several(row[2]), several(row[3]), row[4].strip("-")),
            *(several(row[5]), several(row[6]), row[7], row[8], row[9] == "table"),
        )
        for row in rows
    )


def _templates() -> tuple[Template, ...]:
    blocks = (block.split("\n") for block in _TEMPLATES.strip().split("\n\n"))
    return tuple(Template(difficulty, text, " ".join(sql)) for difficulty, text, *sql in blocks)


THEMES = _themes()
TEMPLATES = _templates()
