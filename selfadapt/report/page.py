"""Fills `page.html` with a run's numbers, plots and texts. The template escapes every text."""

from __future__ import annotations

import functools
import os
import pathlib
from collections.abc import Callable
from typing import Any

import markupsafe

from selfadapt.files import write_text
from selfadapt.report import data, evolution, plots, pretraining, retention, template
from selfadapt.report.grids import grid_svg
from selfadapt.telemetry.progress import duration


def write_report(workdir: str | os.PathLike) -> pathlib.Path:
    """Writes `report.html` into the workdir of a finished run.

    It reads `summary.json`, and `config.json`, `edits.jsonl` and `metrics.jsonl` where they exist, or the files of
    an evaluation protocol. The page is one file: it runs no script and makes no request.

    Returns:
      The path of the page.

    Raises:
      UserError: there is no finished run, or a file of it is broken; the message names file and record.
    """
    summary = data.read_summary(workdir)
    if isinstance(summary, dict) and "retention" in summary:
        text = retention.render(summary, data.read_config(workdir), pathlib.Path(workdir))
    elif isinstance(summary, dict) and "pretraining" in summary:
        text = pretraining.render(summary, data.read_config(workdir), pathlib.Path(workdir))
    elif isinstance(summary, dict) and "evolution" in summary:
        text = evolution.render(summary, data.read_config(workdir), pathlib.Path(workdir))
    else:
        text = render(data.read_run(workdir))
    return write_text(pathlib.Path(workdir) / "report.html", text)


def render(run: data.Run) -> str:
    """Returns the page about a run."""
    summary, policies, choices = run.summary, run.policies, data.choices(run)
    first, last = (policies[0], policies[-1]) if policies else ("", "")
    number = plots.formatter(summary)
    invalid = data.invalid(run)
    of_policies = sum(edit.get("status", "ok") != "ok" for edit in run.written)
    return template.render(
        "page.html",
        title=str(summary.get("name") or run.name),
        headline=headline(summary, policies, run.noun),
        facts=_facts(run),
        summary=summary,
        share=data.is_share(summary),
        number=number,
        points=plots.points,
        signed=plots.formatter(summary, signed=True),
        label=data.label,
        duration=duration,
        ladder=_drawing(plots.ladder, summary),
        differences=_drawing(plots.differences, summary),
        curve=_drawing(plots.curve, summary) if plots.has_curve(summary) else None,
        noun=run.noun,
        kinds=None if choices else _kinds(run),
        choices=choices,
        grid=lambda grid, name: markupsafe.Markup(grid_svg(grid, name)),
        constant=next((row["details"] for row in summary["ladder"] if "edit" in row.get("details", {})), None),
        passages=data.passages(run),
        first=first,
        last=last,
        columns=[name for name in dict.fromkeys(("none", first, last)) if name],
        scores=functools.partial(_scores, names=[first, last], number=number),
        summary_of=functools.partial(_summary_of, number=number),
        verdict=_verdict,
        gold=_gold,
        questions=run.questions,
        invalid=invalid,
        invalid_count=of_policies if run.edits else sum(row["count"] for row in invalid),
        invalid_others=sum(row["count"] for row in invalid) - of_policies if run.edits else 0,
        total=len(run.written),
        timings=_timings(summary),
        command=summary.get("command"),
        versions=summary.get("versions"),
        config=template.config_rows(run.config),
        events=run.events,
        span=run.span,
        workdir=run.name,
    )


def headline(summary: dict[str, Any], policies: list[str], noun: str = "passage") -> tuple[str, str]:
    """Returns the run's result as a sentence, and a line of figures.

    A gain is only called one if its 95% interval is above zero.

    Args:
      summary: a checked summary.
      policies: the ladder's rows of policies.
      noun: what a held-out task is called.
    """
    number, signed = plots.formatter(summary), plots.formatter(summary, signed=True)
    means = {row["name"]: row["mean"] for row in summary["ladder"]}
    where = f"on held\N{NON-BREAKING HYPHEN}out {noun}s."
    if len(policies) < 2:
        name = summary["ladder"][-1]["name"]
        return f"{data.label(name)[0]}: {number(means[name])} {where}", ""
    first, last = policies[0], policies[-1]
    values = f"from {number(means[first])} to {number(means[last])} {where}"
    row = data.paired(summary, last, first)
    if row is None:
        return f"From the untrained policy to {data.label(last)[0].lower()}: {values}", ""
    points = " points" if data.is_share(summary) else ""
    figures = (
        f"{data.label(last)[0]} minus {data.label(first)[0].lower()}, paired by {noun}: "
        f"{signed(row['difference'])}{points}, 95% interval {signed(row['low'])} to {signed(row['high'])}."
    )
    if row["low"] > 0:
        return f"The trained policy’s edits teach more: {values}", figures
    if row["high"] < 0:
        return f"The trained policy’s edits teach less: {values}", figures
    return f"Training the policy made no clear difference: {values}", figures


def _drawing(draw: Callable[..., str], *arguments: Any) -> Callable[[int], markupsafe.Markup]:
    """Wraps a plot as a function of its width, for the template; plots escape their texts."""
    return lambda width: markupsafe.Markup(draw(*arguments, width))


def _facts(run: data.Run) -> list[tuple[str, str]]:
    summary = run.summary
    passages = {row.get("n") for row in summary["ladder"]} - {None}
    facts = [
        ("Model", summary.get("model")),
        (f"Held-out {run.noun}s", " to ".join(str(count) for count in sorted(passages)[:: max(len(passages) - 1, 1)])),
        ("Rounds", len(summary["rounds"]) or None),
        ("Edits written", f"{len(run.written):,}" if run.written else None),
        ("Seed", summary.get("seed")),
        ("Time", duration(summary["seconds"]) if summary.get("seconds") is not None else None),
    ]
    return [(name, str(value)) for name, value in facts if value not in (None, "")]


def _kinds(run: data.Run) -> dict[str, Any] | None:
    counts = data.kinds_of_lines(run)
    if not counts:
        return None
    totals = sum(counts.values(), start=type(next(iter(counts.values())))())
    names = [name for name, _ in totals.most_common()]
    if len(names) > plots.KINDS:
        named, names = names[: plots.KINDS - 1], [*names[: plots.KINDS - 1], "all others"]
        for count in counts.values():
            count["all others"] = sum(value for name, value in count.items() if name not in named)
    shares = {
        policy: [count[name] / max(sum(count[name] for name in names), 1) for name in names]
        for policy, count in counts.items()
    }
    first, last = list(shares)[0], list(shares)[-1]
    return {
        "draw": _drawing(plots.kinds, shares, names),
        "first": first,
        "last": last,
        "rows": [
            {"name": name, "first": shares[first][place], "last": shares[last][place]}
            for place, name in enumerate(names)
        ],
    }


def _timings(summary: dict[str, Any]) -> list[dict[str, Any]]:
    seconds = {name: value for name, value in summary["timings"].items() if value}
    if not seconds:
        return []
    whole = max(summary.get("seconds") or 0.0, sum(seconds.values()))
    rest = whole - sum(seconds.values())
    rows = sorted(seconds.items(), key=lambda item: -item[1])
    rows += [("everything else", rest)] if rest > 0.005 * whole else []
    return [{"name": name, "seconds": value, "share": value / whole} for name, value in rows]


def _scores(edits: dict[str, dict[str, Any]], names: list[str], number: Callable[..., str]) -> str:
    rewards = [edits[name].get("reward") for name in dict.fromkeys(names)]
    return " → ".join("–" if reward is None else number(reward) for reward in rewards)


def _summary_of(edit: dict[str, Any], number: Callable[..., str]) -> str:
    reward, status = edit.get("reward"), edit.get("status", "ok")
    parts = [] if reward is None else [f"reward {number(reward)}"]
    return ", ".join(parts + ([] if status == "ok" else [f"invalid: {data.clean(status, 100)}"]))


def _verdict(edit: dict[str, Any], index: int) -> float | None:
    """Returns the verdict on the first answer to question `index`, or `None` if it was not asked."""
    verdicts, answers = edit.get("verdicts") or (), edit.get("answers") or ()
    if index >= min(len(verdicts), len(answers)):
        return None
    return verdicts[index]


def _gold(edit: dict[str, Any], index: int) -> str:
    golds = edit.get("golds") or ()
    return " / ".join(golds[index]) if index < len(golds) else ""
