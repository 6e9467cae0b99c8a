"""Real text with the embedded model: does adapting to a SQuAD passage make its gold answers likelier?

The embedded model knows nothing but the tiny world, and its tokenizer spells other text in bytes. For passages that fit
its context this prints the mean log-likelihood (nats per token) of the gold answers, with no passage in the prompt: of
the model as it is, adapted to the passage, and adapted to the model's own edit and the passage. The control is
adapting to a mismatched passage, of another article, and to its edit: what that gains is learnt from English text in
general, and only the difference from it from this passage. Means and paired differences have 95% intervals over
passages.

    python -m benchmarks.real_text squad_val.json
"""

from __future__ import annotations

import argparse
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from selfadapt import Model, Task, Update, adapt, load_model, log_likelihood, loop
from selfadapt.config import load_config
from selfadapt.defaults import resolve
from selfadapt.domains.knowledge import make
from selfadapt.errors import UserError
from selfadapt.models.policy import Policy
from selfadapt.telemetry.statistics import paired_difference

CONFIG = pathlib.Path(__file__).parent.parent / "configs" / "quickstart.py"
BASE = "no adaptation"
OWN = "the passage"
OWN_EDIT = "own edit and the passage"
OTHER = "a mismatched passage"
OTHER_EDIT = "a mismatched edit and its passage"
DIFFERENCES = ((OWN, BASE), (OTHER, BASE), (OWN, OTHER), (OWN_EDIT, OTHER_EDIT), (OWN_EDIT, OWN))


def mismatched(tasks: Sequence[Task]) -> list[int]:
    """Returns for each task the index of another one, of another title; each task is used about once.

    Raises:
      UserError: all tasks have one title.
    """
    found = []
    for start, task in enumerate(tasks):
        following = (index % len(tasks) for index in range(start + 1, start + len(tasks)))
        other = next((index for index in following if tasks[index].title != task.title), None)
        if other is None:
            raise UserError(f"all {len(tasks)} passages are of the article {task.title!r}; give passages of several")
        found.append(other)
    return found


def mean_likelihoods(model: Model, tasks: Sequence[Task], prompts: Sequence[Sequence[str]], updates: Sequence[Update]):
    """Returns for each task the log-likelihood of its gold answers after its update, in nats per token."""
    golds = [[f" {question.answers[0]}" for question in task.questions] for task in tasks]
    tokens = [sum(len(model.tokenizer(gold, add_special_tokens=False)["input_ids"]) for gold in each) for each in golds]
    sums = log_likelihood(model, prompts, golds, adapters=adapt(model, updates))
    return [float(np.sum(each)) / count for each, count in zip(sums, tokens, strict=True)]


def table(rows: Mapping[str, Sequence[float]]) -> str:
    """Returns the Markdown tables of means and of paired differences, each with its 95% interval."""

    def cells(values: Sequence[float], reference: Sequence[float], sign: str) -> str:
        mean, low, high = paired_difference(values, reference)
        return f"{mean:{sign}.2f} [{low:{sign}.2f}, {high:{sign}.2f}]"

    lines = ["| adapted to | nats per token |", "| --- | --- |"]
    lines += [f"| {name} | {cells(values, [0.0] * len(values), '')} |" for name, values in rows.items()]
    lines += ["", "| paired difference | nats per token |", "| --- | --- |"]
    lines += [f"| {a} - {b} | {cells(rows[a], rows[b], '+')} |" for a, b in DIFFERENCES]
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="SEAL's squad_val.json, or any source of passages")
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--passages", type=int, default=50)
    arguments = parser.parse_args(argv)
    overrides = {
        "model": arguments.model,
        "data.path": arguments.data,
        "data.skip_long": "true",
        "evaluation.contexts": "1000000",  # hold out everything; the first ones that fit are used
        "edits": "1",
    }
    config = resolve(load_config(CONFIG, overrides))
    model = load_model(arguments.model)
    domain = make(config, model)
    tasks = domain.tasks("heldout", min(arguments.passages, len(domain.source.heldout)))
    other = mismatched(tasks)
    edits = loop.sample(Policy(model), domain, tasks, loop.Settings.of(config))
    alone = [domain.apply(task, None) for task in tasks]
    edited = [domain.apply(task, edit.text) for task, edit in zip(tasks, edits, strict=True)]
    updates = {
        BASE: [update.replace(epochs=0) for update in alone],
        OWN: alone,
        OWN_EDIT: edited,
        OTHER: [alone[index] for index in other],
        OTHER_EDIT: [edited[index] for index in other],
    }
    prompts = [domain.questions(task, "") for task in tasks]
    rows = {name: mean_likelihoods(model, tasks, prompts, each) for name, each in updates.items()}
    print(f"{len(tasks)} passages\n\n{table(rows)}")


if __name__ == "__main__":
    main()
