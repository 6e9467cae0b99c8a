"""Makes the embedded models: pretrains one on the documents of a tiny world, measures its abilities, saves it."""

from __future__ import annotations

import importlib
import itertools
import json
import os
import pathlib
from typing import TYPE_CHECKING

import jax
import numpy as np

from selfadapt import files
from selfadapt.config import save_config
from selfadapt.engine import pretrain as program
from selfadapt.errors import InvalidValueError
from selfadapt.models.config import ModelConfig
from selfadapt.models.model import Model, load_model
from selfadapt.telemetry.metrics import MetricsWriter
from selfadapt.telemetry.progress import Progress

if TYPE_CHECKING:
    import ml_collections

REPORT_EVERY = 50  # steps

# The worlds: packages with a module `pretraining` (`SHARES`, `make_tokenizer`, `documents`) and a module `check`.
WORLDS = {
    "knowledge": "selfadapt.domains.tiny",
    "grids": "selfadapt.domains.tiny.grids",
    "rules": "selfadapt.domains.tiny.rules",
    "tables": "selfadapt.domains.tiny.tables",
}


def pretrain(config: ml_collections.ConfigDict, workdir: str | os.PathLike) -> Model:
    """Pretrains an embedded model and writes it to `workdir/model` as a Hugging Face directory.

    Args:
      config: the fields of one of `configs/pretrain_tiny*.py`.
      workdir: `config.json`, `metrics.jsonl` (losses in nats, and at the end what the world's `check` finds) and the
        model, also every `config.save_every` steps, are written there.

    Returns:
      The model.

    Raises:
      InvalidValueError: there is no such world, a document does not fit into a row, or the model's sizes are
        inconsistent, or not those of the model to start from.
    """
    if config.world not in WORLDS:
        raise InvalidValueError(f"config.world is {config.world!r}; it must be one of {', '.join(WORLDS)}")
    pretraining, check = (
        importlib.import_module(f"{WORLDS[config.world]}.{name}") for name in ("pretraining", "check")
    )
    save_config(workdir, config)
    tokenizer = pretraining.make_tokenizer(config.model.max_position_embeddings)
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
    if config.start:
        started = load_model(config.start)
        if started.config != architecture:
            raise InvalidValueError(f"config.start: {config.start} is not a model of the sizes of config.model")
        params = started.params
    else:
        params = program.init_params(jax.random.key(config.seed), architecture)
    optimizer = program.make_optimizer(steps=config.steps, **config.optimizer)
    state = optimizer.init(params)
    documents = pretraining.documents(tokenizer, config.seed, longest=config.row_tokens)
    batches = itertools.islice(program.pack(documents, rows=config.rows, length=config.row_tokens), config.steps)
    kinds = list(pretraining.SHARES)
    generation = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
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
            if step % config.save_every == 0 or step == config.steps:
                model = Model(architecture, params, tokenizer, generation_config=generation)
                save(model, pathlib.Path(workdir) / "model")
        results = check.check(model, **config.check)
        metrics.event("check", phase="check", **results)
        progress.log(json.dumps(results, indent=2))
    return model


def save(model: Model, directory: pathlib.Path) -> None:
    """Writes the model, and its tokenizer under the class name that every version of transformers has."""
    model.save(directory)
    described = json.loads((directory / "tokenizer_config.json").read_text(encoding="utf-8"))
    described.pop("backend", None)
    files.write_json(directory / "tokenizer_config.json", described | {"tokenizer_class": "PreTrainedTokenizerFast"})
