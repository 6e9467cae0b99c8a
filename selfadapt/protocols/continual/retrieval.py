"""Retrieval of adapters: BM25 over the passages that they were trained on, and batches of prompts that mix them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from selfadapt.engine.generate import generate
from selfadapt.errors import InvalidValueError, MissingPackageError
from selfadapt.models.lora import Adapters
from selfadapt.models.model import Model


def package() -> Any:
    """Returns the package `bm25s`, imported when it is needed.

    Raises:
      MissingPackageError: it is not installed.
    """
    try:
        import bm25s
    except ImportError as error:
        raise MissingPackageError("retrieval of adapters needs an extra: pip install 'selfadapt[retrieval]'") from error
    logging.getLogger("bm25s").setLevel(logging.INFO)  # which it sets to DEBUG: a message for each index
    return bm25s


class Index:
    """An index of texts by their words (BM25, Robertson and Zaragoza 2009, doi 10.1561/1500000019).

    English stop words do not count.

    Example:
      >>> Index(["The river Avon", "The city of Bath"]).find(["Which city is old?", "Which river?", "Who?"])
      [1, 0, 0]
    """

    def __init__(self, texts: Sequence[str]):
        """Indexes texts.

        Raises:
          MissingPackageError: `bm25s` is not installed.
        """
        words = self._words(texts)
        self._scorer = package().BM25() if any(words) else None
        if self._scorer is not None:
            self._scorer.index(words, show_progress=False)

    def find(self, queries: Sequence[str]) -> list[int]:
        """Returns for each query the number of the text that fits best; of equals, and without any, the first."""
        if self._scorer is None:
            return [0] * len(queries)
        return [int(np.argmax(self._scorer.get_scores(words))) if words else 0 for words in self._words(queries)]

    def _words(self, texts: Sequence[str]) -> list[list[str]]:
        return package().tokenize(list(texts), stopwords="en", return_ids=False, show_progress=False)


def generate_with(
    model: Model, adapters: Adapters, prompts: Sequence[Any], chosen: Sequence[int], **options: Any
) -> list[Any]:
    """Continues prompts, each with the adapter chosen for it, all in one batch.

    Args:
      model: the base model.
      adapters: a stack of adapters.
      prompts: strings or token ids.
      chosen: for each prompt the index of its adapter.
      **options: those of `generate`.

    Returns:
      The text (or `Generation`) of each prompt: the one that it would get alone.

    Raises:
      InvalidValueError: an index is that of no adapter, or the adapters were made for another base.
    """
    lists: list[list[Any]] = [[] for _ in range(len(adapters))]
    for number, (prompt, index) in enumerate(zip(prompts, chosen, strict=True)):
        if not 0 <= index < len(adapters):
            raise InvalidValueError(f"prompt {number} chooses adapter {index} of a stack of {len(adapters)}")
        lists[index].append(prompt)
    texts = [iter(own) for own in generate(model, lists, adapters=adapters, **options)]
    return [next(texts[index]) for index in chosen]
