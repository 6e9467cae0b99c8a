"""Full-parameter training of a small decoder from packed rows: Muon on the matrices, Adam elsewhere.

The embedded model is made with it. Documents of several kinds are packed into the same rows; the loss is also returned
for each kind, since abilities appear at different times.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Iterator
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
from optax.contrib import MuonDimensionNumbers, muon

from selfadapt.errors import InvalidValueError
from selfadapt.models import decoder
from selfadapt.models.config import ModelConfig

Array = jax.Array
Params = dict[str, Any]

_OPEN_ROWS = 64  # rows kept open for a document that fits: enough that about 2% of the tokens are padding


@flax.struct.dataclass
class Rows:
    """Documents packed into rows, each `[rows, time]`.

    Attributes:
      tokens: token ids, 0 where there is no document.
      segments: the document that a token belongs to, counted from 1 in its row; 0 for padding.
      positions: the token's position in its document.
      weights: the token's weight in the loss, as a target.
      kinds: the kind of its document, an index.
    """

    tokens: Array
    segments: Array
    positions: Array
    weights: Array
    kinds: Array


@flax.struct.dataclass
class Document:
    """One document to train on.

    Attributes:
      tokens: token ids, `[time]`.
      weights: each token's weight in the loss, as a target, `[time]`; the first is never a target.
      kind: its kind, an index.
    """

    tokens: np.ndarray
    weights: np.ndarray
    kind: int = 0


def pack(documents: Iterable[Document], *, rows: int, length: int) -> Iterator[Rows]:
    """Packs documents into batches of rows, each into the fullest open row that it fits into.

    Args:
      documents: the documents; each must fit into a row.
      rows: rows of a batch.
      length: tokens of a row.

    Yields:
      Full batches while there are documents; the rows that are left at the end are dropped.

    Raises:
      ValueError: a document is longer than a row.
    """
    open_rows: list[tuple[int, list[Document]]] = []
    closed: list[list[Document]] = []
    for document in documents:
        size = len(document.tokens)
        if size > length:
            raise InvalidValueError(
                f"a document of {size} tokens does not fit into a row of {length}; lengthen the rows"
            )
        fitting = [index for index, (used, _) in enumerate(open_rows) if used + size <= length]
        used, members = open_rows.pop(max(fitting, key=lambda index: open_rows[index][0])) if fitting else (0, [])
        open_rows.append((used + size, [*members, document]))
        if len(open_rows) > _OPEN_ROWS:
            closed.append(open_rows.pop(max(range(len(open_rows)), key=lambda index: open_rows[index][0]))[1])
        if len(closed) == rows:
            yield _batch(closed, length)
            closed = []


def _batch(rows: list[list[Document]], length: int) -> Rows:
    shape = (len(rows), length)
    tokens, segments, positions, kinds = (np.zeros(shape, np.int32) for _ in range(4))
    weights = np.zeros(shape, np.float32)
    for row, documents in enumerate(rows):
        start = 0
        for segment, document in enumerate(documents, start=1):
            span = slice(start, start + len(document.tokens))
            tokens[row, span], weights[row, span] = document.tokens, document.weights
            weights[row, start] = 0
            segments[row, span], kinds[row, span] = segment, document.kind
            positions[row, span] = np.arange(len(document.tokens))
            start = span.stop
    return Rows(tokens=tokens, segments=segments, positions=positions, weights=weights, kinds=kinds)


def init_params(key: Array, config: ModelConfig) -> Params:
    """Draws the initial parameters of a decoder without biases, in float32.

    Embeddings have unit size. Where they are tied, the last norm starts at `1 / sqrt(hidden_size)`, so that
    logits start at unit size too.
    """
    if config.qkv_bias or config.output_bias or config.mlp_bias or not config.tie_word_embeddings:
        raise InvalidValueError("init_params draws decoders with tied embeddings and without biases only")
    layers, hidden = config.num_layers, config.hidden_size
    keys = iter(jax.random.split(key, 8))
    weights: Params = {
        "input_layernorm": jnp.ones((layers, hidden)),
        "post_attention_layernorm": jnp.ones((layers, hidden)),
    }
    for name, (fan_in, fan_out) in config.projections().items():
        # Projections into the residual stream start small, so that depth does not make it grow.
        size = fan_in**-0.5 / (math.sqrt(2 * layers) if name in ("o_proj", "down_proj") else 1.0)
        weights[name] = size * jax.random.normal(next(keys), (layers, fan_in, fan_out))
    if config.qk_norm:
        weights |= {name: jnp.ones((layers, config.head_dim)) for name in ("q_norm", "k_norm")}
    return {
        "embed_tokens": jax.random.normal(next(keys), (config.vocab_size, hidden)),
        "layers": weights,
        "norm": jnp.full((hidden,), hidden**-0.5),
    }


def make_optimizer(
    *, steps: int, matrix_rate: float, vector_rate: float, embedding_rate: float, decay_share: float
) -> optax.GradientTransformation:
    """Returns Muon (Jordan et al. 2024) for the layers' matrices and Adam for embeddings and norms.

    All rates warm up over 2% of the steps, stay constant, and fall linearly to zero over the last `decay_share`.
    """
    warmup, decay = max(1, steps // 50), max(1, int(steps * decay_share))

    def schedule(rate: float) -> optax.Schedule:
        return optax.join_schedules(
            [
                optax.linear_schedule(0.0, rate, warmup),
                optax.constant_schedule(rate),
                optax.linear_schedule(rate, 0.0, decay),
            ],
            [warmup, max(warmup, steps - decay)],
        )

    def label(params: Params) -> Params:
        layers = {name: "matrix" if leaf.ndim == 3 else "vector" for name, leaf in params["layers"].items()}
        return {name: "vector" for name in params} | {"layers": layers, "embed_tokens": "embedding"}

    stacked = MuonDimensionNumbers(reduction_axis=1, output_axis=2)
    return optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.partition(
            {
                # A function, since the partition hides the other leaves.
                "matrix": muon(
                    schedule(matrix_rate),
                    muon_weight_dimension_numbers=lambda params: jax.tree.map(lambda _: stacked, params),
                ),
                "vector": optax.adam(schedule(vector_rate), b2=0.99),
                "embedding": optax.adam(schedule(embedding_rate), b2=0.99),
            },
            label,
        ),
    )


def loss_by_kind(params: Params, config: ModelConfig, rows: Rows, kinds: int) -> tuple[Array, Array]:
    """Returns the weighted mean cross-entropy in nats and that of each kind of document, `[kinds]`."""
    per_row = Rows(*(leaf[None] for leaf in jax.tree.leaves(rows)))  # one "adapter": the model itself
    hidden = decoder.forward(params, config, per_row.tokens, positions=per_row.positions, segments=per_row.segments)
    scores = decoder.logits(params, config, hidden[0, :, :-1])
    targets, weights = rows.tokens[:, 1:], rows.weights[:, 1:]
    losses = optax.softmax_cross_entropy_with_integer_labels(scores, targets) * weights
    groups = rows.kinds[:, 1:].reshape(-1)
    sums = jnp.zeros(kinds).at[groups].add(losses.reshape(-1))
    totals = jnp.zeros(kinds).at[groups].add(weights.reshape(-1))
    return losses.sum() / jnp.maximum(weights.sum(), 1e-9), sums / jnp.maximum(totals, 1e-9)


@functools.partial(jax.jit, static_argnames=("config", "optimizer", "kinds"), donate_argnames=("params", "state"))
def train_step(
    params: Params,
    state: optax.OptState,
    rows: Rows,
    *,
    config: ModelConfig,
    optimizer: optax.GradientTransformation,
    kinds: int,
) -> tuple[Params, optax.OptState, Array, Array]:
    """Takes one optimiser step; returns parameters, optimiser state, loss, and loss of each kind."""
    (loss, by_kind), gradient = jax.value_and_grad(loss_by_kind, has_aux=True)(params, config, rows, kinds)
    updates, state = optimizer.update(gradient, state, params)
    return optax.apply_updates(params, updates), state, loss, by_kind
