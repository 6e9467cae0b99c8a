"""The baseline: one adapter at a time in torch, with PEFT's LoRA and torch's optimizers. Needs torch and peft.

Tests compare the numbers of `selfadapt.adapt` with it, benchmarks its speed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import transformers
from peft import LoraConfig, get_peft_model

from selfadapt import Adapters, Update
from selfadapt.engine.adapt.schedule import Encoded, optimizer_steps


def wrap(model: transformers.PreTrainedModel, update: Update):
    """Returns the model with a LoRA adapter of an update's rank, alpha and targets."""
    return get_peft_model(model, lora_config(update))


def lora_config(update: Update) -> LoraConfig:
    """Returns the settings of an adapter of an update's rank, alpha and targets."""
    targets = update.targets if isinstance(update.targets, str) else list(update.targets)
    return LoraConfig(
        r=update.rank, lora_alpha=update.alpha, lora_dropout=0.0, target_modules=targets, task_type="CAUSAL_LM"
    )


def copy_adapter(wrapped, adapter: Adapters) -> None:
    """Copies the factors of a stack of one adapter into a PEFT model."""
    (spec,) = adapter.specs
    with torch.no_grad():
        for name, weight in wrapped.named_parameters():
            if "lora_" not in name:
                continue
            parts = name.split(".")
            layer, target = int(parts[parts.index("layers") + 1]), parts[-4]
            factor = (
                adapter.lora.a[target][layer, 0, :, : spec.rank]
                if "lora_A" in name
                else (adapter.lora.b[target][layer, 0, : spec.rank])
            )
            weight.copy_(torch.from_numpy(np.array(factor).T))


def train(wrapped, update: Update, sequences: Sequence[Encoded]) -> list[float]:
    """Trains the adapter on an update in a plain loop; returns the loss of each optimizer step.

    Every micro-batch is padded to its own longest sequence, and its loss weighted by its share of the
    step's target tokens.
    """
    weights = [weight for weight in wrapped.parameters() if weight.requires_grad]
    options = {"lr": update.learning_rate, "weight_decay": update.weight_decay}
    if update.optimizer == "sgd":
        optimizer = torch.optim.SGD(weights, momentum=0.9, **options)
    else:
        optimizer = torch.optim.AdamW(weights, **options)
    steps = optimizer_steps(update, len(sequences))
    schedule = transformers.get_scheduler(update.schedule, optimizer, update.warmup_steps, len(steps))
    losses = []
    for step in steps:
        targets = sum(int(sequences[index].mask.sum()) for index in step)
        total = 0.0
        for start in range(0, len(step), update.batch_size):
            batch = [sequences[index] for index in step[start : start + update.batch_size]]
            longest = max(len(sequence.ids) for sequence in batch)
            ids = torch.zeros(len(batch), longest, dtype=torch.long)
            attention = torch.zeros_like(ids)
            labels = torch.full_like(ids, -100)
            for row, sequence in enumerate(batch):
                size = len(sequence.ids)
                ids[row, :size] = torch.from_numpy(sequence.ids.astype(np.int64))
                visible = np.ones(size, bool) if sequence.attention is None else sequence.attention
                attention[row, :size] = torch.from_numpy(visible)
                labels[row, :size] = torch.where(torch.from_numpy(sequence.mask), ids[row, :size], -100)
            logits = wrapped(input_ids=ids, attention_mask=attention).logits
            loss = torch.nn.functional.cross_entropy(
                logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten(), ignore_index=-100, reduction="sum"
            )
            loss = loss / targets
            loss.backward()
            total += loss.item()
        if update.max_grad_norm is not None and math.isfinite(update.max_grad_norm):
            torch.nn.utils.clip_grad_norm_(weights, update.max_grad_norm)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(total)
    return losses
