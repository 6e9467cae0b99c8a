"""A plan as a text table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from selfadapt.plan.costs import KINDS

_TITLES = {"optimizer": "optim", "temporaries": "temp"}


def format_plan(plan: dict[str, Any]) -> str:
    """Formats the result of `selfadapt.plan.report.plan` as text."""
    topology, model, run = plan["topology"], plan["model"], plan["run"]
    chip = topology["chip"]
    mesh = ", ".join(f"{name} {size}" for name, size in topology["mesh"].items())
    rates = "measured here" if topology["measured"] else "as published"
    lines = [
        f"{model['name']}: {model['parameters'] / 1e9:.3g}B parameters in {model['dtype']}, on {topology['name']}: "
        f"{topology['devices']} x {chip['name']}, mesh {mesh}",
        f"Each device has {_gib(chip['memory'])} GiB, {chip['bandwidth'] / 1e9:.4g} GB/s of memory, "
        f"{_peak(chip, model['dtype']) / 1e12:.4g} TFLOP/s, {chip['links'] / 1e9:.4g} GB/s of links ({rates}).",
        f"{run['name']}: " + ", ".join(f"{count} {what}" for what, count in run["sizes"].items()) + ".",
        f"Tokens {run['tokens']}.",
        "",
    ]
    largest = max(program["needed"] for program in plan["programs"])
    unit, size = ("GiB", 2**30) if largest >= 2**28 else ("MiB", 2**20)
    lines.append(f"Memory, {unit} per device")
    kinds = [kind for kind in KINDS if any(program["memory"][kind] >= size / 200 for program in plan["programs"])]
    rows = [["program", *(_TITLES.get(kind, kind) for kind in kinds), "total", "of", ""]]
    for program in plan["programs"]:
        parts = [program["memory"][kind] for kind in kinds] + [program["needed"], program["limit"]]
        verdict = "fits" if program["fits"] else "DOES NOT FIT"
        rows.append([program["name"], *(f"{part / size:.2f}" for part in parts), verdict])
    lines += [*_columns(rows), "", "Work of one run per device, and its time at the roofline"]
    rows = [["program", "runs", "TFLOP", "memory GB", "links GB", "compute ms", "memory ms", "links ms", "bound by"]]
    rows[0] += ["serial ms", "tokens/s", "padding"]
    for program in plan["programs"]:
        if program["flops"] is None:
            rows.append([program["name"], *["-"] * 11])
            continue
        sent = sum(each["bytes"] for each in program["collectives"])
        milliseconds = [f"{1e3 * program['seconds'].get(part, 0):.4g}" for part in ("compute", "memory", "links")]
        rate = program["tokens_per_second"]
        padding = f"{1 - program['tokens'] / program['padded']:.0%}" if program["padded"] else "-"
        work = [program["runs"], program["flops"] / 1e12, program["bytes"] / 1e9, sent / 1e9]
        cells = [*(f"{value:.4g}" for value in work), *milliseconds, program["bound"]]
        cells.append(f"{1e3 * program['serial']:.4g}")
        rows.append([program["name"], *cells, f"{rate:.4g}" if rate else "-", padding])
    lines += _columns(rows)
    if any(program["collectives"] for program in plan["programs"]):
        lines += ["", "Collectives of one run"]
        rows = [["program", "kind", "over", "times", "GB"]]
        for program in plan["programs"]:
            for each in program["collectives"]:
                axes = " and ".join(each["axes"])
                rows.append([program["name"], each["kind"], axes, f"{each['times']:.0f}", f"{each['bytes'] / 1e9:.4g}"])
        lines += _columns(rows)
    lines += ["", *_verdict(plan)]
    return "\n".join(lines)


def _verdict(plan: dict[str, Any]) -> list[str]:
    run = plan["run"]
    if plan["fits"] and run["seconds"] is None:
        return ["It fits."]
    if plan["fits"]:
        seconds = run["seconds"]
        shares = ", ".join(f"{phase} {value:.3g} s" for phase, value in seconds.items())
        rates = f"{run['edits_per_second']:.3g} edits/s"
        if (sampled := run["new_tokens_per_second"]) is not None:
            rates += f", {sampled:.4g} sampled tokens/s"
        return [
            f"It fits. {run['name']} takes {sum(seconds.values()):.3g} s at the roofline ({shares}): {rates}.",
            f"If no operation overlaps with another it takes {run['serial_seconds']:.3g} s.",
            "Hosts, latencies, compilation and, of a round, the evaluation come on top.",
        ]
    lines = [f"{program['name']}: {program['problem']}" for program in plan["programs"] if program["problem"]]
    lines += ["It does not fit."]
    for each in plan["advice"]:
        needed = f"{_gib(each['needed'])} of {_gib(each['limit'])} GiB per device"
        lines.append(f"  {each['change']}  {'fits' if each['fits'] else 'does not fit either'} ({needed})")
    if not any(each["fits"] for each in plan["advice"]):
        lines.append("  Nothing that was tried fits; take a larger slice or a smaller model.")
    return lines


def _gib(size: float) -> str:
    return f"{size / 2**30:.2f}" if size < 100 * 2**30 else f"{size / 2**30:.0f}"


def _peak(chip: dict[str, Any], dtype: str) -> float:
    return chip["float32"] if dtype == "float32" else chip["bfloat16"]


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Aligns cells: the first column and words to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if place == 0 or cell[:1].isalpha() else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return lines
