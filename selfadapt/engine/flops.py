"""Counts the floating-point operations of each program from its tokens.

These are the operations that the model needs, not those that the machine does: padding, recomputed
activations and masked attention are not included. A product of matrices counts two for each multiplication
with its addition; norms, activation functions, softmax, rotations and the optimizer are left out, as they are
under a hundredth of the rest at the sizes that matter.

With P weights in the projections that a token passes, F = P + the vocabulary's, r adapter parameters, and
A = 4 x heads x head features for each pair of a query and a key in each layer:

- reading a token takes 2P + 2r + A a pair, and 2 for each weight of the vocabulary's projection where logits are asked;
- training on it takes 4F (the frozen base is run forwards and its activations differentiated, but its weights
  get no gradient), 6r (the adapter's weights do) and 3A a pair.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from selfadapt.models.config import ModelConfig
from selfadapt.models.lora import Spec


def adapter_size(config: ModelConfig, spec: Spec) -> int:
    """Parameters of an adapter."""
    shapes = config.projections()
    return config.num_layers * spec.rank * sum(sum(shapes[name]) for name in spec.targets)


def forward(config: ModelConfig, start: Any, stop: Any, *, logits: Any, adapter: Any = 0) -> Any:
    """Operations of running the tokens at positions `start` to `stop` (exclusive) of a sequence.

    Args:
      config: the architecture.
      start: tokens before them, whose keys and values are known; numbers or arrays, as for the others.
      stop: the position after the last.
      logits: how many of the tokens are projected to the vocabulary.
      adapter: parameters of the adapter that they pass, see `adapter_size`.
    """
    tokens = np.asarray(stop, float) - start
    linear = 2 * tokens * (_projections(config) + np.asarray(adapter, float))
    return linear + _attention(config, start, stop) + 2 * np.asarray(logits, float) * _vocabulary(config)


def training(config: ModelConfig, length: Any, *, adapter: Any, under: Any = 0) -> Any:
    """Operations of one forward and backward pass of an adapter on a sequence of `length` tokens; base frozen.

    The base includes an adapter of `under` parameters.
    """
    length = np.asarray(length, float)
    frozen = 4 * length * (_projections(config) + _vocabulary(config) + np.asarray(under, float))
    return frozen + 6 * length * np.asarray(adapter, float) + 3 * _attention(config, 0, length)


def of_adapt(
    config: ModelConfig,
    specs: Sequence[Spec],
    lengths: Sequence[Sequence[int]],
    on: Sequence[Spec] = (),
    anchors: Sequence[Sequence[int]] = (),
) -> float:
    """Operations of training K adapters; `lengths[k]` has an entry for each time that a sequence is trained on.

    `on` has the frozen adapters under them, if there are any. `anchors[k]` has an entry for each time that an anchor is
    used: it is trained on, and run through the base alone.
    """
    each = [[*own, *held] for own, held in itertools.zip_longest(lengths, anchors, fillvalue=())]
    owner = np.repeat(np.arange(len(each)), [len(own) for own in each])
    flat = np.asarray([length for own in each for length in own])
    adapter, under = _sizes(config, specs, owner), _sizes(config, on, owner)
    held = np.asarray([length for own in anchors for length in own])
    alone = forward(config, 0, held, logits=held).sum()
    return float(training(config, flat, adapter=adapter, under=under).sum() + alone)


def of_policy(config: ModelConfig, spec: Spec | None, lengths: Sequence[int], *, backward: bool) -> float:
    """Operations of running a policy over texts, with or without the backward pass.

    Args:
      config: the architecture.
      spec: the adapter that is trained, `None` where all weights are.
      lengths: the tokens of each text with its prompt; all are projected to the vocabulary.
      backward: whether gradients are computed.
    """
    sizes = np.asarray(lengths, float)
    adapter = 0 if spec is None else adapter_size(config, spec)
    total = forward(config, 0, sizes, logits=sizes, adapter=adapter)
    if backward:  # twice the forward pass, without the gradient of frozen weights
        frozen = 0 if spec is None else 2 * sizes * (_projections(config) + _vocabulary(config))
        total = 3 * total - frozen
    return float(np.sum(total))


def of_generate(
    config: ModelConfig, specs: Sequence[Spec], rows: Sequence[tuple[int, int]], written: Sequence[Sequence[int]]
) -> float:
    """Operations of reading each prompt once, and of writing its samples.

    Args:
      config: the architecture.
      specs: of the adapters; empty for the base model.
      rows: for each prompt its adapter and its tokens.
      written: for each prompt the tokens of its samples, as many for each prompt.
    """
    if not rows:
        return 0.0
    owner, length = np.asarray(rows).T
    adapter = _sizes(config, specs, owner)
    prompts = forward(config, 0, length, logits=1, adapter=adapter).sum()
    more = np.maximum(np.asarray(written) - 1, 0)  # the last token of a sample is never read
    length, adapter = length[:, None], adapter[:, None]
    return float(prompts + forward(config, length, length + more, logits=more, adapter=adapter).sum())


def of_score(config: ModelConfig, specs: Sequence[Spec], rows: Sequence[tuple[int, int, int]]) -> float:
    """Operations of scoring; `rows` has for each target its adapter, its tokens with its prompt's, and its own."""
    if not rows:
        return 0.0
    owner, length, target = np.asarray(rows).T
    return float(forward(config, 0, length, logits=target, adapter=_sizes(config, specs, owner)).sum())


def _sizes(config: ModelConfig, specs: Sequence[Spec], owner: np.ndarray) -> np.ndarray:
    """Adapter parameters that each row passes, given its adapter; none without adapters."""
    return np.asarray([adapter_size(config, spec) for spec in specs])[owner] if specs else np.zeros(len(owner))


def _projections(config: ModelConfig) -> int:
    return config.num_layers * sum(a * b for a, b in config.projections().values())


def _vocabulary(config: ModelConfig) -> int:
    return config.hidden_size * config.vocab_size


def _attention(config: ModelConfig, start: Any, stop: Any) -> Any:
    """Operations of queries at positions `start` to `stop` on the keys that each may see."""
    full = (0,) * config.num_layers if config.windows is None else config.windows

    def pairs(length: Any, window: int) -> Any:  # of the first `length` queries
        length = np.asarray(length, float)
        hidden = np.maximum(length - window, 0) if window else 0
        return (length * (length + 1) - hidden * (hidden + 1)) / 2

    seen = sum(full.count(window) * (pairs(stop, window) - pairs(start, window)) for window in set(full))
    return 4 * config.num_heads * config.head_dim * seen
