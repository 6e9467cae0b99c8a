"""SEAL's files of continued pretraining, by LoRA and by full finetuning, built from the answers to each question."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from selfadapt.errors import InvalidValueError
from selfadapt.seal.stats import DIGITS, rounded


def lora_results(
    log: Sequence[Mapping[str, Any]],
    *,
    timestamp: str,
    dataset: str,
    n_articles: int,
    k_completions: int,
    split_newlines: bool,
    lora_params: Mapping[str, Any],
    train_sequences: int,
) -> dict[str, Any]:
    """Builds the file of kind "cpt" of one update on many passages.

    Args:
      log: for each question `title`, `baseline_answer`, `adapter_answer`, `baseline_correct` and `adapter_correct`.
      timestamp: when, as SEAL writes it (month, day, underscore, time).
      dataset: the file of passages.
      n_articles: passages that were learned.
      k_completions: edits of each, 0 for none.
      split_newlines: whether edits were trained on line by line.
      lora_params: `rank`, `alpha`, `dropout`, `epochs`, `lr`, `batch_size`, `grad_accum_steps`.
      train_sequences: sequences that were trained on.

    Returns:
      The file's content, for `write_results`; `read_results` reads it back. Its verdicts by title are those of all
      passages of a title.

    Raises:
      InvalidValueError: there are no questions.
    """
    answers, accuracies = _sides(log)
    baseline, adapter, gain = accuracies
    by_title: dict[str, dict[str, list[bool]]] = {}
    for each in log:
        own = by_title.setdefault(each["title"], {"baseline_correct": [], "adapter_correct": []})
        for name, verdicts in own.items():
            verdicts.append(bool(each[name]))
    gains = [int(b) - int(a) for a, b in zip(answers["baseline_correct"], answers["adapter_correct"], strict=True)]
    return {
        "overall": {"baseline_accuracy": baseline, "adapter_accuracy": adapter, "gain": gain},
        "timestamp": timestamp,
        "dataset": dataset,
        "n_articles": n_articles,
        "k_completions": k_completions,
        "split_newlines": split_newlines,
        "lora_params": dict(lora_params),
        "per_article": by_title,
        "train_sequences": train_sequences,
        "eval_questions": len(log),
        "server_reply": {
            "baseline_accuracy": baseline,
            "adapter_accuracy": adapter,
            "adapter_gain": gain,
            **answers,
            "gains": gains,
        },
    }


def full_results(
    log: Sequence[Mapping[str, Any]],
    *,
    timestamp: str,
    dataset: str,
    n_articles: int,
    k_completions: int,
    model: str,
    args: Mapping[str, Any],
    train_sequences: int,
) -> dict[str, Any]:
    """Builds the file of kind "cpt-full" of one full finetuning on many passages.

    Args:
      log: as for `lora_results`, and so are the other arguments.
      timestamp: when.
      dataset: the file of passages.
      n_articles: passages that were learned.
      k_completions: edits of each, 0 for none.
      model: the model that was finetuned.
      args: the hyper-parameters.
      train_sequences: sequences that were trained on.

    Raises:
      InvalidValueError: there are no questions.
    """
    answers, (baseline, adapter, gain) = _sides(log)
    return {
        "timestamp": timestamp,
        "dataset": dataset,
        "n_articles": n_articles,
        "k_completions": k_completions,
        "train_sequences": train_sequences,
        "eval_questions": len(log),
        "model": model,
        "metrics": {"baseline_accuracy": baseline, "adapter_accuracy": adapter, "adapter_gain": gain},
        "per_question": answers,
        "args": dict(args),
    }


def _sides(log: Sequence[Mapping[str, Any]]) -> tuple[dict[str, list[Any]], tuple[Any, Any, Any]]:
    """Returns the answers and verdicts before and after, and the two accuracies with their difference."""
    if not log:
        raise InvalidValueError("there are no questions to sum up")
    answers: dict[str, list[Any]] = {}
    for side in ("baseline", "adapter"):
        answers[f"{side}_texts"] = [each[f"{side}_answer"] for each in log]
    for side in ("baseline", "adapter"):
        answers[f"{side}_correct"] = [bool(each[f"{side}_correct"]) for each in log]
    baseline, adapter = (statistics.fmean(answers[f"{side}_correct"]) for side in ("baseline", "adapter"))
    return answers, (rounded(baseline, DIGITS), rounded(adapter, DIGITS), rounded(adapter - baseline, DIGITS))
