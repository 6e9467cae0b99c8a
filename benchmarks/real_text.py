"""Real text with the embedded model: does adapting to a SQuAD passage make its gold answers likelier?

The embedded model knows nothing but the tiny world; its tokenizer spells everything else in bytes. For
passages that fit its context this prints the mean log-likelihood per token (nats) of the gold answers,
without the passage in context: before adapting, after adapting to the passage, and after adapting to the
model's own edit and the passage.

    python -m benchmarks.real_text squad_val.json
"""

from __future__ import annotations

import argparse
import json
import pathlib

import numpy as np

from selfadapt import adapt, load_model, log_likelihood, loop
from selfadapt.config import load_config
from selfadapt.defaults import resolve
from selfadapt.domains import make_domain
from selfadapt.experiment import make_settings
from selfadapt.models.policy import Policy
from selfadapt.telemetry.statistics import mean_and_stderr, paired_difference

CONFIG = pathlib.Path(__file__).parent.parent / "configs" / "quickstart.py"


def main(argv: list[str] | None = None) -> None:
    """Prints the three means, each with its standard error over passages, as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
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
    domain = make_domain(config, model)
    tasks = domain.tasks("heldout", min(arguments.passages, len(domain.heldout)))
    edits = loop.sample(Policy(model), domain, tasks, make_settings(config))
    prompts = [domain.questions(task, "") for task in tasks]
    golds = [[f" {question.answers[0]}" for question in task.questions] for task in tasks]
    tokens = [sum(len(model.tokenizer(gold, add_special_tokens=False)["input_ids"]) for gold in each) for each in golds]

    def per_token(updates):
        adapters = adapt(model, updates)
        sums = log_likelihood(model, prompts, golds, adapters=adapters)
        return [float(np.sum(each)) / count for each, count in zip(sums, tokens, strict=True)]

    alone = [domain.apply(task, None) for task in tasks]
    rows = {
        "before": per_token([update.replace(epochs=0) for update in alone]),
        "passage": per_token(alone),
        "own edit and passage": per_token([what for _, what in loop.applied(domain, tasks, edits)]),
    }
    fields = ("mean", "stderr")
    result = {name: dict(zip(fields, mean_and_stderr(values), strict=True)) for name, values in rows.items()}
    for name in ("passage", "own edit and passage"):
        result[f"{name} - before"] = dict(
            zip(("difference", "low", "high"), paired_difference(rows[name], rows["before"]), strict=True)
        )
    print(json.dumps({"passages": len(tasks), "nats per token": result}, indent=2))


if __name__ == "__main__":
    main()
