"""Texts on which the remedy "anchored" holds a model near what it was before any edit."""

from __future__ import annotations

import itertools
import pathlib
from typing import Any

from selfadapt.domains.tiny import pretraining
from selfadapt.errors import InvalidValueError
from selfadapt.models.model import Model
from selfadapt.types import TokenSequence

WORLD = "tiny_world"  # the documents of the embedded model's pretraining
DOCUMENTS = 256  # of that world


def read_anchors(config: Any, model: Model) -> tuple[TokenSequence, ...]:
    """Returns the anchors that `config.protocol` describes.

    Args:
      config: the resolved config. `config.protocol.anchors` is "tiny_world", or a UTF-8 file with a text on each line;
        the first `anchor_tokens` tokens of each text are used.
      model: the model that is held, for its tokenizer.

    Raises:
      InvalidValueError: the file cannot be read, or has no text of two tokens.
    """
    fields = config.protocol
    if fields.anchors == WORLD:
        texts = list(itertools.islice(pretraining.texts(config.seed), DOCUMENTS))
    else:
        try:
            content = pathlib.Path(fields.anchors).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidValueError(
                f"config.protocol.anchors: {fields.anchors}: cannot be read ({error}); name a UTF-8 file with a text "
                f"on each line, or {WORLD!r}"
            ) from None
        texts = [line for line in content.splitlines() if line.strip()]
    encoded = model.tokenizer(texts, verbose=False)["input_ids"] if texts else []
    anchors = tuple(TokenSequence(tuple(ids[: fields.anchor_tokens])) for ids in encoded if len(ids) > 1)
    if not anchors:
        raise InvalidValueError(f"config.protocol.anchors: {fields.anchors}: has no text of at least two tokens")
    return anchors
