"""SEAL's published numbers, and the result file that each should follow from (arXiv 2506.10943).

Paths are those of the repository's folder of knowledge incorporation as of the paper's second version. All accuracies
are in percent.
"""

from __future__ import annotations

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True)
class Row:
    """One accuracy of a table.

    Attributes:
      label: the method.
      published: what the paper prints; `None` if it prints nothing.
      file: the result file.
      noted: what the file of the repository has.
      side: "adapter", or "baseline" for the model that is not adapted.
    """

    label: str
    published: float | None
    file: str
    noted: float
    side: Literal["adapter", "baseline"] = "adapter"


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two rows of a table that are compared, passage by passage or question by question.

    Attributes:
      a: the label of the row that is subtracted.
      b: the label of the other.
    """

    a: str
    b: str


@dataclasses.dataclass(frozen=True)
class Table:
    """A published table.

    Attributes:
      title: unique.
      rows: its accuracies.
      pairs: the comparisons that its conclusions rest on.
    """

    title: str
    rows: tuple[Row, ...]
    pairs: tuple[Pair, ...] = ()


_EVAL = "query_server/eval"
_PROMPTS = "query_server/alternate_prompts/eval"
_BASE, _PASSAGE, _UNTRAINED, _GPT, _SEAL = (
    "base model",
    "trained on the passage",
    "untrained policy's edits",
    "GPT-4.1's edits",
    "SEAL, round 2",
)
_PAIRS = (Pair(_PASSAGE, _UNTRAINED), Pair(_UNTRAINED, _GPT), Pair(_UNTRAINED, _SEAL), Pair(_GPT, _SEAL))


def _continued(title: str, pattern: str, rows: tuple[tuple[str, float | None, str, float], ...]) -> Table:
    made = [Row(label, printed, pattern.format(name), noted) for label, printed, name, noted in rows]
    made[0] = dataclasses.replace(made[0], side="baseline")
    return Table(title, tuple(made), _PAIRS)


def _prompts(prompt: str, name: str, *cells: tuple[float | None, float]) -> tuple[Row, ...]:
    """Makes a line of the table of prompts: the untrained policy, rounds 1 and 2, GPT-4.1."""
    policies = (("untrained", "base"), ("round 1", "iter1"), ("round 2", "iter2"), ("GPT-4.1", "openai"))
    return tuple(
        Row(f"{prompt}, {policy}", printed, f"{_PROMPTS}/{file}_prompt-{name}.json", noted)
        for (policy, file), (printed, noted) in zip(policies, cells, strict=True)
    )


TABLES = (
    Table(
        "Single passage, Qwen2.5-7B",
        (
            Row(_BASE, 32.7, f"{_EVAL}/base.json", 32.67, "baseline"),
            Row(_PASSAGE, 33.5, f"{_EVAL}/naive.json", 33.51),
            Row(_UNTRAINED, 39.7, f"{_EVAL}/base.json", 39.68),
            Row(_GPT, 46.3, f"{_EVAL}/gpt4_1.json", 46.31),
            Row("SEAL, round 1", 43.7, f"{_EVAL}/iter1.json", 42.68),
            Row(_SEAL, 47.0, f"{_EVAL}/iter2.json", 46.99),
            Row("Generative Adapter", 66.8, f"{_PROMPTS}/generative-adapter.json", 66.79),
        ),
        (*_PAIRS, Pair(_UNTRAINED, "SEAL, round 1"), Pair("SEAL, round 1", _SEAL)),
    ),
    _continued(
        "Continued pretraining by LoRA, 200 passages (version 1)",
        "cpt_{}.json",
        (
            (_BASE, 32.7, "base", 32.55),
            (_PASSAGE, 32.2, "naive", 32.24),
            (_UNTRAINED, 41.0, "base", 40.97),
            (_GPT, 39.4, "gpt4_1", 39.43),
            (_SEAL, 43.8, "iter2", 43.84),
            ("EntiGraph, pairs", None, "entigraph-pairs", 37.17),
            ("EntiGraph, pairs and triples", None, "entigraph-pairs+triples", 40.97),
        ),
    ),
    _continued(
        "Continued pretraining of all weights, 200 passages (version 2)",
        "cpt/200/{}_200.json",
        (
            (_BASE, 32.7, "base", 32.0),
            (_PASSAGE, 36.0, "naive", 36.0),
            (_UNTRAINED, 50.6, "base", 50.6),
            (_GPT, 59.4, "gpt4_1", 59.4),
            (_SEAL, 58.2, "iter2", 58.2),
            ("EntiGraph, pairs", 46.2, "enti-pair", 46.2),
            ("EntiGraph, pairs and triples", 56.0, "enti-pair+triple", 56.0),
        ),
    ),
    _continued(
        "Continued pretraining of all weights, 2067 passages (version 2)",
        "cpt/2067/{}_2067.json",
        (
            (_BASE, 29.0, "base", 29.0),
            (_PASSAGE, 31.2, "naive", 31.2),
            (_UNTRAINED, 43.4, "base", 43.4),
            (_GPT, 49.2, "gpt4_1", 49.2),
            (_SEAL, 46.4, "iter2", 46.4),
            ("EntiGraph, pairs", 38.6, "enti-pair", 38.6),
            ("EntiGraph, pairs and triples", 48.6, "enti-pair+triple", 48.6),
        ),
    ),
    Table(
        "Prompts for edits, single passage (version 2)",
        (
            *_prompts("implications-long", "long", (49.3, 49.29), (52.4, 52.39), (54.4, 54.36), (54.1, 54.05)),
            *_prompts(
                "implications-very-long", "very-long", (45.0, 44.97), (51.5, 51.47), (52.1, 52.09), (40.9, 40.88)
            ),
            *_prompts("rewrite", "rewrite", (49.4, 49.37), (55.3, 55.32), (55.6, 55.55), (54.4, 53.62)),
            *_prompts("self-qa", "self-qa", (37.3, 37.30), (42.8, 42.80), (48.7, 48.71), (39.2, 39.23)),
            *_prompts("no prompt", "none", (13.8, 13.79), (12.7, 12.69), (18.9, 18.86), (28.6, 28.57)),
            Row("implications-cot, untrained", None, f"{_PROMPTS}/base_prompt-cot.json", 38.68),
        ),
        tuple(
            Pair(f"{prompt}, untrained", f"{prompt}, round 2")
            for prompt in ("implications-long", "implications-very-long", "rewrite", "self-qa")
        ),
    ),
    Table(
        "Single passage, Qwen2.5-3B (version 2)",
        (
            Row(_BASE, 25.1, "query_server/3B/eval/base.json", 25.13, "baseline"),
            Row(_UNTRAINED, 31.9, "query_server/3B/eval/base.json", 31.93),
            Row(_SEAL, 37.0, "query_server/3B/eval/iter2.json", 36.98),
        ),
        (Pair(_UNTRAINED, _SEAL),),
    ),
)

# Rounds of training: name, the file that ranks their edits, the file of the edits that were learned from.
_TRAIN = "query_server/train/rank_iter{}.json", "EM_SFT/sft_best1of5_iter{}.jsonl"
_TRAIN_PROMPT = (
    "query_server/alternate_prompts/train/rank_iter{}_prompt-{}.json",
    "EM_SFT/alternate_prompts/sft_best1of5_iter{}_prompt-{}.jsonl",
)
ROUNDS = tuple(
    [(f"implications, round {i + 1}", *(path.format(i) for path in _TRAIN)) for i in range(2)]
    + [
        (f"{prompt}, round {i + 1}", *(path.format(i, name) for path in _TRAIN_PROMPT))
        for prompt, name in (
            ("implications-long", "long"),
            ("implications-very-long", "very-long"),
            ("rewrite", "rewrite"),
            ("self-qa", "self-qa"),
        )
        for i in range(2)
    ]
)

# Files of edits of the evaluation's passages, five of each passage.
EDITS = tuple(
    (label, f"synthetic_data/eval/{name}_val.json")
    for label, name in ((_UNTRAINED, "base"), ("SEAL, round 1", "iter1"), (_SEAL, "iter2"), (_GPT, "gpt4_1"))
)
FINETUNING = "EM_SFT/*.jsonl"  # of all rounds, the other prompts' in a folder below
PASSAGES = "data/squad_val.json"  # from which the evaluation's are drawn
CONTINUAL = "continual_self_edits/overall_results.json"
CONTINUAL_RUNS = "continual_self_edits/run*/summary_*.json"

# Names under which some of the files may be in a folder without subfolders.
FLAT = {
    f"{_EVAL}/base.json": "result_eval_base.json",
    f"{_EVAL}/iter2.json": "result_eval_iter2.json",
    _TRAIN[0].format(1): "rank_iter1.json",
    _TRAIN[1].format(1): "sft_best1of5_iter1.jsonl",
    FINETUNING: "sft_*.jsonl",
    "synthetic_data/eval/base_val.json": "base_val.json",
    "synthetic_data/eval/iter2_val.json": "iter2_val.json",
    PASSAGES: "squad_val.json",
    CONTINUAL: "continual_overall.json",
    CONTINUAL_RUNS: "continual_run*.json",
}
