"""A tokenizer in which chosen words are single tokens and any other text is spelled in bytes.

The tokenizer of the embedded model. It is byte-level BPE without merges: a word of the vocabulary is
one token (`ignore_merges`), every other one is split into its bytes. All text can therefore be
encoded, and decodes to itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

END_OF_TEXT = "<|endoftext|>"

# A word with the space before it, or any single character else (a digit, a mark, a newline).
_PIECES = r" ?\p{L}+|\s|[^\s\p{L}]"


def build_tokenizer(
    texts: Iterable[str], *, pieces: Sequence[str] = (), max_length: int = 1024
) -> PreTrainedTokenizerFast:
    """Builds a tokenizer from texts whose every word becomes one token.

    Args:
      texts: texts that hold the words, each with or without a leading space as it is to be known.
      pieces: other strings that become one token, except within a word; of several that fit, the longest one.
      max_length: what the tokenizer's files give as the model's longest input, in tokens.

    Returns:
      A fast Hugging Face tokenizer. Its ids are: 0 the end of text, which also pads; 256 bytes; the words in
      alphabetical order.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, pre_tokenizers
    from tokenizers.models import BPE
    from transformers import PreTrainedTokenizerFast

    pattern = "|".join([*map(_literal, sorted(pieces, key=len, reverse=True)), _PIECES])
    split = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    found = {piece for text in (*texts, *pieces) for piece, _ in split.pre_tokenize_str(text)}
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = sorted(piece for piece in found if len(piece) > 1)
    vocabulary = {token: index for index, token in enumerate([END_OF_TEXT, *alphabet, *words])}
    tokenizer = Tokenizer(BPE(vocab=vocabulary, merges=[], ignore_merges=True))
    tokenizer.pre_tokenizer = split
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(END_OF_TEXT, special=True, normalized=False)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
        model_max_length=max_length,
        clean_up_tokenization_spaces=False,
    )


def _literal(text: str) -> str:
    """Returns the regular expression of a text, in the syntax of Oniguruma."""
    return "".join(f"\\x{{{ord(character):x}}}" for character in text)
