"""Reads a workdir and computes the contents of its report, without HTML."""

from __future__ import annotations

import collections
import dataclasses
import itertools
import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any

from selfadapt.errors import UserError
from selfadapt.files import read_jsonl
from selfadapt.report.grids import check_grids
from selfadapt.types import is_policy_row

_LABELS = {
    "none": ("No adaptation", "the model as it is"),
    "passage": ("Passage alone", "adapted to the passage itself"),
    "untrained": ("Untrained policy", "adapted to the edits of the first policy"),
    "policy": ("Policy", "adapted to the edits of the policy"),
    "random": ("Random edits", "adapted to edits drawn at random"),
    "constant": ("Best constant edit", "adapted to the edit that is best for all training tasks together"),
    "passage in prompt": ("Passage in the prompt", "the model as it is, with the passage before each question"),
    "oracle": ("Oracle", "adapted to the edits of a perfect author"),
}
# What held-out tasks are called, by domain.
_NOUNS = {"instructions": "environment", "weights_or_words": "task"}


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished run, read from its workdir.

    Attributes:
      name: the workdir's name.
      summary: `summary.json`, checked.
      config: `config.json`, or `{}`.
      edits: the records of `edits.jsonl`, checked; empty if there is no such file.
      events: how many events of each name `metrics.jsonl` holds.
      span: the times of the first and the last event, or `None`.
      questions: `questions.json`, the questions that the policy wrote about training passages, or `None`.
    """

    name: str
    summary: dict[str, Any]
    config: dict[str, Any]
    edits: tuple[dict[str, Any], ...]
    events: dict[str, int]
    span: tuple[str, str] | None
    questions: dict[str, Any] | None = None

    @property
    def policies(self) -> list[str]:
        """The ladder's rows of policies, from the untrained one to the last round's."""
        return [row["name"] for row in self.summary["ladder"] if is_policy_row(row["name"])]

    @property
    def noun(self) -> str:
        """What the page calls a held-out task."""
        if noun := _NOUNS.get(self.config.get("domain", {}).get("name")):
            return noun
        return "task" if any("grids" in edit for edit in self.edits) else "passage"

    @property
    def written(self) -> list[dict[str, Any]]:
        """The edits that a policy wrote, each once: without the rows of references and of controls."""
        return [edit for edit in self.edits if is_policy_row(edit["policy"]) and edit["phase"] != "control"]


def read_run(workdir: str | os.PathLike) -> Run:
    """Reads a workdir.

    Raises:
      UserError: the workdir holds no finished run, or a file of it is broken; the message names the file
        and the record.
    """
    workdir = pathlib.Path(workdir)
    summary = check_summary(read_summary(workdir), str(workdir / "summary.json"))
    config = read_config(workdir)
    edits = []
    if (workdir / "edits.jsonl").exists():
        for number, edit in enumerate(read_jsonl(workdir / "edits.jsonl"), start=1):
            for field in ("task", "phase", "policy", "text"):
                if not isinstance(edit.get(field), str):
                    raise UserError(f"{workdir / 'edits.jsonl'}, line {number}: the field {field!r} must be text")
            if "grids" in edit:
                check_grids(edit["grids"], f"{workdir / 'edits.jsonl'}, line {number}")
            edits.append(edit)
    events: collections.Counter[str] = collections.Counter()
    times: list[str] = []
    if (workdir / "metrics.jsonl").exists():
        for event in read_jsonl(workdir / "metrics.jsonl"):
            events[str(event.get("event"))] += 1
            times.append(str(event.get("time")))
    return Run(
        name=workdir.resolve().name,
        summary=summary,
        config=config,
        edits=tuple(edits),
        events=dict(events),
        span=(times[0], times[-1]) if times else None,
        questions=_read_json(path) if (path := workdir / "questions.json").exists() else None,
    )


def read_summary(workdir: str | os.PathLike) -> Any:
    """Reads a workdir's `summary.json`.

    Raises:
      UserError: there is none, or it is no JSON.
    """
    workdir = pathlib.Path(workdir)
    if not workdir.is_dir():
        raise UserError(f"there is no workdir {workdir}; name the --workdir of a run of `selfadapt train`")
    path = workdir / "summary.json"
    if not path.exists():
        raise UserError(f"{workdir} has no summary.json: no run has finished there. `selfadapt train` writes it")
    return _read_json(path)


def read_config(workdir: str | os.PathLike) -> dict[str, Any]:
    """Reads a workdir's `config.json`; `{}` if there is none."""
    path = pathlib.Path(workdir) / "config.json"
    return _read_json(path) if path.exists() else {}


def check_summary(summary: Any, where: str = "the summary") -> dict[str, Any]:
    """Returns a summary with its optional parts filled in.

    Raises:
      UserError: a part that the report draws is missing or malformed.
    """
    if not isinstance(summary, dict) or not summary.get("ladder"):
        raise UserError(f"{where} has no ladder: it must be an object with a list of {{name, mean, stderr, n}}")
    needs = {
        "ladder": ("name", "mean"),
        "extras": ("name", "mean"),
        "paired": ("a", "b", "difference"),
        "rounds": ("round",),
    }
    filled = {"timings": {}, "invalid": {}, "versions": {}, **summary}
    for part, fields in needs.items():
        filled[part] = summary.get(part) or []
        for index, row in enumerate(filled[part]):
            for field in fields:
                value = row.get(field) if isinstance(row, dict) else None
                right = isinstance(value, str) if field in ("name", "a", "b") else isinstance(value, int | float)
                if not right:
                    raise UserError(f"{where}: {part}[{index}] has {value!r} as its {field!r}; see {sorted(fields)}")
    return filled


def label(name: str) -> tuple[str, str]:
    """Returns the title of a row of the ladder, and a short description."""
    if is_policy_row(name) and name not in _LABELS:
        return f"Round {name[5:]}", f"adapted to the edits of the policy after round {name[5:]}"
    return _LABELS.get(name, (name.replace("_", " "), ""))


def clean(text: object, limit: int) -> str:
    """Returns `text` as text cut to `limit` characters, control characters shown as the replacement character.

    Characters that turn the direction of text are replaced too, so that no edit can reorder the page.
    """
    text = str(text)
    cut = f"{text[:limit]}… ({len(text) - limit} more characters)" if len(text) > limit else text
    return "".join(
        letter if letter in "\n\t" or letter.isprintable() or letter.isspace() else "\ufffd" for letter in cut
    )


def is_share(summary: dict[str, Any]) -> bool:
    """Whether the ladder's values are shares, to be written in percent, and not other rewards."""
    return all(0 <= row["mean"] <= 1 for row in summary["ladder"])


def kinds_of_lines(run: Run) -> dict[str, collections.Counter]:
    """Counts the kinds of line that each policy writes, on held-out passages where there are any.

    Returns:
      The counts per policy, policies in the order of the ladder; empty if no edit has its kinds recorded.
    """
    counts = {}
    for policy in run.policies:
        if edits := _described(run, policy):
            counts[policy] = sum((collections.Counter(edit["kinds"]) for edit in edits), collections.Counter())
    return counts


def _described(run: Run, policy: str) -> list[dict[str, Any]]:
    """Returns the edits of a policy that have their kinds recorded, on held-out tasks where there are any."""
    edits = [edit for edit in run.written if edit["policy"] == policy and edit.get("kinds")]
    return [edit for edit in edits if edit["phase"] == "eval"] or edits


def choices(run: Run) -> list[tuple[str, str, dict[str, float]]]:
    """Returns what the policies choose, where edits are made of choices (kinds such as "epochs: 2").

    Returns:
      (choice, value, the share of each policy's edits that have it), values of a choice together; empty if kinds are
      not choices. A choice that only some tasks have counts the edits of these tasks.
    """
    counts = kinds_of_lines(run)
    names = sorted({name for count in counts.values() for name in count})
    if not names or not all(": " in name for name in names):
        return []
    edits = {policy: _described(run, policy) for policy in counts}
    tasks: dict[str, set[str]] = {}
    for edit in itertools.chain.from_iterable(edits.values()):
        for name in edit["kinds"]:
            tasks.setdefault(name.split(": ")[0], set()).add(edit["task"])
    order = list(tasks)

    def share(name: str, policy: str) -> float:
        asked = sum(edit["task"] in tasks[name.split(": ")[0]] for edit in edits[policy])
        return counts[policy][name] / max(asked, 1)

    return [
        (*name.split(": ", 1), {policy: share(name, policy) for policy in counts})
        for name in sorted(names, key=lambda name: (order.index(name.split(": ")[0]), _natural(name)))
    ]


def passages(run: Run, count: int = 6) -> list[dict[str, dict[str, Any]]]:
    """Picks held-out passages to show: evenly spaced from the largest gain to the largest loss.

    The gain is the last policy's reward minus the untrained one's. The first sample of each counts.

    Returns:
      For each passage its edit per policy (references too), largest gain first.
    """
    tasks: dict[str, dict[str, dict[str, Any]]] = {}
    for edit in run.edits:
        if edit["phase"] == "eval":
            tasks.setdefault(edit["task"], {}).setdefault(edit["policy"], edit)
    policies = [policy for policy in run.policies if any(policy in edits for edits in tasks.values())]
    if not policies:
        return []
    first, last = policies[0], policies[-1]
    shown = [edits for edits in tasks.values() if first in edits and last in edits]
    shown.sort(key=lambda edits: _reward(edits[first]) - _reward(edits[last]))
    count = min(count, len(shown))
    return [shown[round(place * (len(shown) - 1) / max(count - 1, 1))] for place in range(count)]


def invalid(run: Run) -> list[dict[str, Any]]:
    """Returns the reasons for which edits could not be applied, the most frequent first.

    Returns:
      For each reason its "status", the "count" of edits of all rows, and an "example" edit or `None`.
    """
    counts: collections.Counter[str] = collections.Counter()
    examples: dict[str, dict[str, Any]] = {}
    for edit in run.edits:
        if (status := edit.get("status", "ok")) != "ok":
            counts[status] += 1
            examples.setdefault(status, edit)
    counts = counts if run.edits else collections.Counter(run.summary["invalid"])
    return [
        {"status": status, "count": count, "example": examples.get(status)}
        for status, count in counts.most_common()
        if count and status != "ok"
    ]


def paired(summary: dict[str, Any], a: str, b: str) -> dict[str, Any] | None:
    """Returns the paired comparison of a minus b, if the summary has it with its interval."""
    for row in summary["paired"]:
        if (row["a"], row["b"]) == (a, b) and row.get("low") is not None and row.get("high") is not None:
            return row
    return None


def fields_of(config: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Returns the (dotted name, value) pairs of a config."""
    fields = []
    for name, value in config.items():
        if isinstance(value, dict) and value:
            fields += fields_of(value, f"{prefix}{name}.")
        else:
            fields.append((f"{prefix}{name}", value))
    return fields


def _natural(name: str) -> tuple[float, str]:
    """Orders values that are numbers by size."""
    try:
        return float(name.split(": ", 1)[1]), name
    except ValueError:
        return 0.0, name


def _reward(edit: dict[str, Any]) -> float:
    verdicts: Sequence[float] = edit.get("verdicts") or ()
    reward = edit.get("reward")
    if reward is not None:
        return reward
    return sum(verdicts) / len(verdicts) if verdicts else 0.0


def _read_json(path: pathlib.Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error})") from error
