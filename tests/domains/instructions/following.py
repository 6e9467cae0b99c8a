"""Stand-ins for models of the tiny world of rules: one that follows instructions, and one that writes them."""

import functools
import random
import re
import types

from selfadapt.domains.tiny.rules.pretraining import make_tokenizer
from selfadapt.domains.tiny.rules.source import TinyRules, oracle_instruction
from selfadapt.models.policy import Policy
from tests.domains.tiny.rules import reference


def follow(prompt):
    """Answers as the last line of the instruction about each key says."""
    *lines, question = prompt.removesuffix(" -> ").split("\n")
    return reference.answer(lines, question.removeprefix("? "))


@functools.cache
def _pieces(split, number):
    return oracle_instruction(TinyRules().environments(split, number + 1)[number]).split("\n")


def piece_by_piece(prompt, id, sample):
    """Adds up to two right lines and forgets some; one edit in five is empty. (id, sample) decides."""
    draw = random.Random(f"{id} {sample}")
    split, number = re.search(r"rules-(\w+)-0-(\d+)", id).groups()
    lines = [line for line in prompt.split("\n") if " = " in line and draw.random() < 0.8]
    lines += draw.sample(_pieces(split, int(number)), draw.randint(0, 2))
    return "" if draw.random() < 0.2 else "\n".join(dict.fromkeys(lines))


def model(positions=1024):
    """A policy whose model has the world's tokenizer and no weights."""
    config = types.SimpleNamespace(max_position_embeddings=positions)
    return Policy(types.SimpleNamespace(tokenizer=make_tokenizer(positions), config=config, name="rules"))


class Generate:
    """Takes the place of `generate`: follows instructions, or writes what `edit(prompt, id, sample)` returns.

    Attributes:
      calls: the number of prompts of each call for answers.
      prompts: all prompts of answers.
    """

    def __init__(self, edit=None):
        self.edit, self.calls, self.prompts = edit, [], []

    def __call__(self, given, prompts, *, max_new_tokens, temperature=0.0, num_samples=None, ids=None, **options):
        if num_samples is None:
            assert temperature == 0.0 and max_new_tokens >= 16 and options["stop"] == ("\n",)
            self.calls.append(len(prompts))
            self.prompts += prompts
            return [follow(prompt) for prompt in prompts]
        assert temperature == 1.0 and all(prompt.endswith("rewrite:\n") for prompt in prompts)
        return [
            [self.edit(prompt, id, sample) for sample in range(num_samples)]
            for prompt, id in zip(prompts, ids, strict=True)
        ]
