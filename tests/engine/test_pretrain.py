"""Tests of full-parameter training from packed rows."""

import jax
import numpy as np
import pytest

from selfadapt.engine import pretrain
from selfadapt.engine.pretrain import Document, Rows
from selfadapt.models.config import ModelConfig

SMALL = ModelConfig(
    family="qwen3",
    vocab_size=50,
    hidden_size=16,
    intermediate_size=24,
    num_layers=2,
    num_heads=2,
    num_kv_heads=1,
    head_dim=8,
    tie_word_embeddings=True,
    qk_norm=True,
)


def document(*tokens, weight=1.0, kind=0):
    return Document(np.array(tokens), np.full(len(tokens), weight), kind)


def test_documents_share_rows_and_nothing_is_lost_or_cut():
    rng = np.random.default_rng(0)
    documents = [document(*rng.integers(1, 50, rng.integers(2, 30))) for _ in range(500)]
    batches = list(pretrain.pack(documents, rows=4, length=40))
    found = []
    for batch in batches:
        assert batch.tokens.shape == (4, 40)
        for row, segments in zip(batch.tokens, batch.segments, strict=True):
            found += [tuple(row[segments == segment].tolist()) for segment in range(1, segments.max() + 1)]
    written = [tuple(d.tokens.tolist()) for d in documents]
    assert len(found) > 300  # the others are in rows still open
    assert set(found) <= set(written)
    assert np.mean([batch.segments > 0 for batch in batches]) > 0.9


def test_a_document_longer_than_a_row_is_refused():
    with pytest.raises(ValueError, match="5 tokens does not fit into a row of 4"):
        next(pretrain.pack([document(1, 2, 3, 4, 5)], rows=1, length=4))


def rows(*documents, length=16):
    return pretrain._batch([list(documents)], length)


def test_a_document_has_the_same_loss_alone_and_beside_others():
    params = pretrain.init_params(jax.random.key(0), SMALL)
    one, other = document(3, 4, 5, 6, kind=1), document(9, 8, 7, kind=0)
    _, alone = pretrain.loss_by_kind(params, SMALL, rows(one), 2)
    _, beside = pretrain.loss_by_kind(params, SMALL, rows(other, one), 2)
    np.testing.assert_allclose(alone[1], beside[1], rtol=1e-5)


def test_tokens_of_weight_zero_do_not_count_and_the_mean_is_by_weight():
    params = pretrain.init_params(jax.random.key(0), SMALL)
    _, (first,) = pretrain.loss_by_kind(params, SMALL, rows(document(3, 4)), 1)
    _, (second,) = pretrain.loss_by_kind(params, SMALL, rows(document(7, 8)), 1)
    silent, heavy = document(5, 6, weight=0.0), document(7, 8, weight=3.0)
    both, _ = pretrain.loss_by_kind(params, SMALL, rows(document(3, 4), heavy, silent), 1)
    np.testing.assert_allclose(both, (first + 3 * second) / 4, rtol=1e-5)


def test_a_decoder_that_init_does_not_draw_is_refused():
    with pytest.raises(ValueError, match="tied embeddings"):
        pretrain.init_params(jax.random.key(0), ModelConfig("llama", 8, 8, 8, 1, 1, 1, 8))


def test_training_fits_what_it_sees():
    optimizer = pretrain.make_optimizer(
        steps=40, matrix_rate=0.01, vector_rate=3e-3, embedding_rate=0.03, decay_share=0.5
    )
    params = pretrain.init_params(jax.random.key(0), SMALL)
    state = optimizer.init(params)
    batch: Rows = rows(document(1, 2, 3, 4, 5, 6, 7), document(30, 2, 31, 4, 32, 6))
    losses = []
    for _ in range(40):
        params, state, loss, _ = pretrain.train_step(params, state, batch, config=SMALL, optimizer=optimizer, kinds=1)
        losses.append(float(loss))
    assert losses[0] > 3
    assert losses[-1] < 0.3 * losses[0]
