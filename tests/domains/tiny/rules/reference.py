"""What the tests of the tiny world of rules compare with, written another way: by matching whole questions."""

import re

DEFAULT_UNITS = dict(
    length="m",
    weight="kg",
    time="s",
    volume="l",
    area="ha",
    power="W",
    energy="J",
    heat="C",
    pressure="Pa",
    money="eur",
)
FORMATS = dict(date="-", pair="+", point="_", score=":", range="~", ratio="/", label=".", route="&")


def answer(lines, question):
    """The answer that follows from lines of text; those at the end come first."""

    def value(key, default):
        return next((line.removeprefix(f"{key} = ") for line in lines[::-1] if line.startswith(f"{key} = ")), default)

    if found := re.fullmatch(r"(count|list) ([a-z]+) ([a-z]+)(=|!=|<|>)(\w+)", question):
        verb, noun, key, sign, operand = found.groups()
        what = "COUNT(*)" if verb == "count" else "name"
        quote = "'" if operand.isalpha() else ""
        return f"SELECT {what} FROM {value(noun, noun)} WHERE {value(key, key)}{sign}{quote}{operand}{quote}"
    key, *numbers = question.split(" ")
    if key in FORMATS:
        return value(key, FORMATS[key]).join(numbers)
    if key in DEFAULT_UNITS:
        return f"{numbers[0]} {value(key, DEFAULT_UNITS[key])}"
    return value(key, key) + numbers[0]


def write_perfectly(rule, instruction, problems):
    """The edit of a perfect author: all lines of the instruction, and all pieces that wrong answers reveal."""
    lines = instruction.split("\n") if instruction else []
    for problem in problems:
        for key in rule.family.uses(problem.question):
            if f"{key} = {rule.values[key]}" not in lines:
                lines.append(f"{key} = {rule.values[key]}")
    return "\n".join(lines)
