"""The texts that `generate` writes, on the host: tokens so far, stop strings, the end of each text."""

from __future__ import annotations

import bisect
import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from selfadapt.engine.generate.choose import INVALID
from selfadapt.engine.generate.live import NOWHERE


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
    """The texts of one chunk: the tokens of each row so far, and whether it has ended.

    Args:
      model: the model, for its tokenizer and end-of-sequence tokens.
      stop: strings that end a text.
      max_new_tokens: the most tokens of a text.
      rows: for each row whether there is a text; others have ended before they begin.

    Attributes:
      done: which rows have ended, `[rows]`.
      counts: the tokens of each row, `[rows]`.
    """

    def __init__(self, model: Any, stop: Sequence[str], max_new_tokens: int, rows: np.ndarray):
        self.tokenizer, self.max_new_tokens = model.tokenizer, max_new_tokens
        self.ends, self.stop = set(model.config.eos_token_ids), []
        for string in stop:
            # Special tokens are not part of the text; as stop strings they are compared as tokens.
            if string in self.tokenizer.all_special_tokens:
                self.ends.add(self.tokenizer.convert_tokens_to_ids(string))
            else:
                self.stop.append(string)
        self.tokens: list[list[int]] = [[] for _ in rows]
        self.logprobs: list[list[np.ndarray]] = [[] for _ in rows]
        self.finish: dict[int, str] = {}
        self.cut: dict[int, str] = {}
        self.done, self.counts = ~rows, np.zeros(len(rows), int)

    def add(self, rows: np.ndarray, written: np.ndarray, logprobs: np.ndarray) -> None:
        """Appends what was written in some steps to rows that have not ended.

        Args:
          rows: the rows, `[count]`, `NOWHERE` where there is none.
          written: their tokens, `[steps, count]`.
          logprobs: the log-probabilities of the tokens, likewise.
        """
        for column, row in enumerate(rows):
            if row == NOWHERE or self.done[row]:
                continue
            tokens, before = self.tokens[row], len(self.tokens[row])
            for token in written[:, column].tolist():
                if token == INVALID:
                    self.finish[row] = "invalid"
                    break
                tokens.append(token)
                if token in self.ends:
                    self.finish[row] = "stop"
                    break
                if len(tokens) == self.max_new_tokens:
                    self.finish[row] = "length"
                    break
            self.logprobs[row].append(logprobs[: len(tokens) - before, column])
            if self.stop:
                self._find_stop(row, before)
            self.done[row] = row in self.finish
            self.counts[row] = len(self.tokens[row])

    def _find_stop(self, row: int, before: int) -> None:
        """Ends a text at its first token with which a stop string appears; `before` tokens are known to have none."""
        tokens = self.tokens[row]

        def first_stop(end: int) -> str | None:
            text = self._decode(tokens[:end])
            found = [at for string in self.stop if (at := text.find(string)) >= 0]
            return text[: min(found)] if found else None

        if first_stop(len(tokens)) is None:
            return
        ends = range(before + 1, len(tokens) + 1)
        end = ends[bisect.bisect_left(ends, True, key=lambda end: first_stop(end) is not None)]
        self.tokens[row], self.finish[row], self.cut[row] = tokens[:end], "stop", first_stop(end) or ""

    def _decode(self, tokens: Sequence[int]) -> str:
        return self.tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def result(self, row: int) -> Generation:
        """Returns the text of a row that has ended."""
        tokens, text = self.tokens[row], self.cut.get(row)
        if text is None:
            text = self._decode(tokens) if self.tokenizer is not None else ""
        logprobs = np.concatenate(self.logprobs[row])[: len(tokens)]
        return Generation(text, tuple(tokens), logprobs, self.finish[row])
