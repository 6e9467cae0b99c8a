"""The texts that `generate` writes, on the host: tokens so far, stop strings, the end of each text."""

from __future__ import annotations

import bisect
import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from selfadapt.engine.generate.batching import Chunk
from selfadapt.engine.generate.choose import INVALID


@dataclasses.dataclass(frozen=True)
class Generation:
    """What the model wrote after one prompt.

    Attributes:
      text: the text, without special tokens and cut before the stop string.
      tokens: the sampled token ids, with the end-of-sequence token or the stop string's last token.
      logprobs: log-probability of each token under the model itself (temperature 1, nothing filtered),
        in nats, float32.
      finish: "stop" (end of sequence or a stop string), "length" (`max_new_tokens` reached) or "invalid"
        (the adapter gave logits that are not finite).
    """

    text: str
    tokens: tuple[int, ...]
    logprobs: np.ndarray
    finish: str


class Texts:
    """The texts of one chunk: the tokens of each sample so far, and whether it has ended.

    Args:
      model: the model, for its tokenizer and end-of-sequence tokens.
      stop: strings that end a text.
      chunk: the prompts that run together.
      samples: samples of each prompt.
    """

    def __init__(self, model: Any, stop: Sequence[str], chunk: Chunk, samples: int):
        self.tokenizer = model.tokenizer
        self.ends, self.stop = set(model.config.eos_token_ids), []
        for string in stop:
            # Special tokens are not part of the text; as stop strings they are compared as tokens.
            if string in self.tokenizer.all_special_tokens:
                self.ends.add(self.tokenizer.convert_tokens_to_ids(string))
            else:
                self.stop.append(string)
        places = [(k, r, s) for k, r, _ in chunk.places() for s in range(samples)]
        self.tokens: dict[tuple[int, int, int], list[int]] = {place: [] for place in places}
        self.finish: dict[tuple[int, int, int], str] = {}
        self.cut: dict[tuple[int, int, int], str] = {}
        self.shape = (*chunk.shape, samples)

    def update(self, written: np.ndarray) -> np.ndarray:
        """Appends the tokens of some steps, `[steps, K, R]`; returns which samples have ended, `[K, P, samples]`."""
        columns = written.reshape(len(written), *self.shape)
        done = np.ones(self.shape, bool)
        for place, tokens in self.tokens.items():
            if place in self.finish:
                continue
            before = len(tokens)
            for token in columns[(slice(None), *place)].tolist():
                if token == INVALID:
                    self.finish[place] = "invalid"
                    break
                tokens.append(token)
                if token in self.ends:
                    self.finish[place] = "stop"
                    break
            if self.stop:
                self._find_stop(place, before)
            done[place] = place in self.finish
        return done

    def _find_stop(self, place: tuple[int, int, int], before: int) -> None:
        """Ends a text at its first token with which a stop string appears; `before` tokens are known to have none."""
        tokens = self.tokens[place]

        def first_stop(end: int) -> str | None:
            text = self._decode(tokens[:end])
            found = [at for string in self.stop if (at := text.find(string)) >= 0]
            return text[: min(found)] if found else None

        if first_stop(len(tokens)) is None:
            return
        ends = range(before + 1, len(tokens) + 1)
        end = ends[bisect.bisect_left(ends, True, key=lambda end: first_stop(end) is not None)]
        self.tokens[place], self.finish[place], self.cut[place] = tokens[:end], "stop", first_stop(end) or ""

    def _decode(self, tokens: Sequence[int]) -> str:
        return self.tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def result(self, k: int, r: int, s: int, logprobs: np.ndarray) -> Generation:
        """Returns a sample, given the log-probabilities of all its steps, `[steps]`."""
        place = (k, r, s)
        tokens = self.tokens[place]
        text = self.cut.get(place)
        if text is None:
            text = self._decode(tokens) if self.tokenizer is not None else ""
        return Generation(text, tuple(tokens), logprobs[: len(tokens)], self.finish.get(place, "length"))
