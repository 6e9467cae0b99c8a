"""Makes the embedded model: pretrains it on the tiny world's documents, measures its abilities, saves it."""

from __future__ import annotations

import collections
import itertools
import json
import os
import pathlib
import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from selfadapt import files
from selfadapt.config import save_config
from selfadapt.domains.tiny import pretraining, world
from selfadapt.domains.tiny.edits import classify_line
from selfadapt.engine import pretrain as program
from selfadapt.engine.generate import generate
from selfadapt.models.config import ModelConfig
from selfadapt.models.model import Model
from selfadapt.models.tiny_tokenizer import build_tokenizer
from selfadapt.telemetry.metrics import MetricsWriter
from selfadapt.telemetry.progress import Progress

if TYPE_CHECKING:
    import ml_collections

REPORT_EVERY = 50  # steps


def pretrain(config: ml_collections.ConfigDict, workdir: str | os.PathLike) -> Model:
    """Pretrains the embedded model and writes it to `workdir/model` as a Hugging Face directory.

    Args:
      config: the fields of `configs/pretrain_tiny.py`.
      workdir: `config.json`, `metrics.jsonl` (losses in nats, and at the end the results of `check`) and the model
        are written there.

    Returns:
      The model.

    Raises:
      InvalidValueError: a document does not fit into a row, or the model's sizes are inconsistent.
    """
    save_config(workdir, config)
    tokenizer = build_tokenizer(world.every_text(), max_length=config.model.max_position_embeddings)
    architecture = ModelConfig.from_json(
        dict(config.model)
        | {
            "model_type": "llama",
            "vocab_size": len(tokenizer),
            "tie_word_embeddings": True,
            "bos_token_id": None,
            "eos_token_id": tokenizer.eos_token_id,
        },
        source="config.model",
    )
    params = program.init_params(jax.random.key(config.seed), architecture)
    optimizer = program.make_optimizer(steps=config.steps, **config.optimizer)
    state = optimizer.init(params)
    documents = pretraining.documents(tokenizer, config.seed, longest=config.row_tokens)
    batches = itertools.islice(program.pack(documents, rows=config.rows, length=config.row_tokens), config.steps)
    kinds = list(pretraining.SHARES)
    progress, recent = Progress(), []
    with MetricsWriter(workdir) as metrics, progress.phase("pretrain", total=config.steps, unit="step") as bar:
        for step, rows in enumerate(batches, start=1):
            params, state, loss, by_kind = program.train_step(
                params, state, rows, config=architecture, optimizer=optimizer, kinds=len(kinds)
            )
            recent.append((loss, by_kind))
            bar.advance()
            if step % REPORT_EVERY == 0 or step == config.steps:
                losses, each = (np.mean(values, axis=0) for values in zip(*jax.device_get(recent), strict=True))
                losses_by_kind = dict(zip(kinds, each.tolist(), strict=True))
                tokens = step * config.rows * config.row_tokens
                metrics.event("loss", phase="pretrain", step=step, tokens=tokens, loss=losses, by_kind=losses_by_kind)
                progress.log(
                    f"step {step}: loss {losses:.3f} ({', '.join(f'{k} {v:.2f}' for k, v in losses_by_kind.items())})"
                )
                recent.clear()
        generation = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
        model = Model(architecture, params, tokenizer, generation_config=generation)
        save(model, pathlib.Path(workdir) / "model")
        results = check(model, passages=config.check_passages)
        metrics.event("check", phase="check", **results)
        progress.log(json.dumps(results, indent=2))
    return model


def save(model: Model, directory: pathlib.Path) -> None:
    """Writes the model, and its tokenizer under the class name that every version of transformers has."""
    model.save(directory)
    described = json.loads((directory / "tokenizer_config.json").read_text(encoding="utf-8"))
    described.pop("backend", None)
    files.write_json(directory / "tokenizer_config.json", described | {"tokenizer_class": "PreTrainedTokenizerFast"})


def check(model: Model, *, passages: int = 64, edits: int = 4, seed: int = 0) -> dict[str, Any]:
    """Measures the abilities of the pretrained model, on held-out passages and on the entities of pretraining.

    Args:
      model: the model.
      passages: the number of held-out passages.
      edits: edits sampled per passage, at temperature 1.
      seed: seeds passages and sampling.

    Returns:
      Shares of correct answers in [0, 1]: `open_book` (with the passage in the prompt), `closed_book` (without it,
      about entities that pretraining asked about), `statements_only` (about entities it never asked about), `fresh`
      (about held-out passages that are not in the prompt: the rate of guessing); `lines_per_edit`; and `line_kinds`,
      the share of each kind among the lines of edits.
    """
    tasks = world.tasks("heldout", passages, seed)
    known = pretraining.known_entities()
    asked, unasked = known[: -pretraining.UNASKED], known[-pretraining.UNASKED :]
    prompts = {
        "open_book": [
            (f"{task.title}\n{task.context}\n{world.answer_prompt(q.question)}", q.answers[0])
            for task in tasks
            for q in task.questions
        ],
        "fresh": [(world.answer_prompt(q.question, t.title), q.answers[0]) for t in tasks for q in t.questions],
        "closed_book": _closed_book(asked, 6 * passages),
        "statements_only": _closed_book(unasked, 6 * passages),
    }
    results: dict[str, Any] = {}
    flat = [prompt for pairs in prompts.values() for prompt, _ in pairs]
    answers = iter(generate(model, flat, max_new_tokens=6, stop="\n"))  # one call compiles fewer shapes than four
    for name, pairs in prompts.items():
        results[name] = float(np.mean([next(answers).strip() == gold for _, gold in pairs]))
    texts = generate(
        model,
        [world.edit_prompt(task) for task in tasks],
        max_new_tokens=160,
        temperature=1.0,
        num_samples=edits,
        seed=seed,
        ids=[task.id for task in tasks],
    )
    lines = [
        (task, line) for task, samples in zip(tasks, texts, strict=True) for t in samples for line in t.split("\n")
    ]
    kinds = collections.Counter(classify_line(task, line).kind for task, line in lines)
    results["lines_per_edit"] = len(lines) / (passages * edits)
    results["line_kinds"] = {kind: count / len(lines) for kind, count in kinds.most_common()}
    return results


def _closed_book(entities: Sequence[world.Entity], most: int) -> list[tuple[str, str]]:
    rng = random.Random("tiny/check")
    facts = [(entity, attribute, value) for entity in entities for attribute, value in entity.facts()]
    return [
        (world.answer_prompt(attribute.evaluation.format(name=entity.mention), entity.title), value)
        for entity, attribute, value in rng.sample(facts, min(len(facts), most))
    ]
