"""The presets: complete sets of hyper-parameters, one for each domain and kind of model."""

from __future__ import annotations

import dataclasses
from typing import Any

from selfadapt.types import Update

_TRAINING = (
    "rank",
    "alpha",
    "targets",
    "optimizer",
    "learning_rate",
    "epochs",
    "batch_size",
    "gradient_accumulation",
    "schedule",
    "warmup_steps",
    "max_grad_norm",
    "weight_decay",
)


def _update(group: str, **changes: Any) -> dict[str, Any]:
    """Returns the hyper-parameters of an `Update` as config fields: those of the class, with changes."""
    values: dict[str, Any] = {f.name: f.default for f in dataclasses.fields(Update) if f.name in _TRAINING}
    values |= changes
    if not isinstance(values["targets"], str):
        values["targets"] = ",".join(values["targets"])
    values["alpha"] = float(values["alpha"])
    return {f"{group}.{name}": value for name, value in values.items()}


# ReST-EM's finetuning of the embedded models.
_TINY_FINETUNING = _update(
    "outer.rest_em", rank=16, alpha=32.0, targets="all-linear", learning_rate=2e-3, epochs=6, batch_size=10
)

# All hyper-parameters by field name; the presets of a domain have the same fields.
PRESETS: dict[str, dict[str, Any]] = {
    # SEAL, knowledge incorporation (arXiv 2506.10943, section 4.1 and appendix B): two rounds on Qwen2.5-7B.
    "seal": {
        "contexts": 50,
        "edits": 5,
        "inner_runs": 3,
        "sampling.temperature": 1.0,
        "sampling.top_p": 0.95,
        "sampling.max_new_tokens": 8192,
        "answer.max_new_tokens": 64,
        "answer.stop": (),  # to the end of the sequence
        "evaluation.contexts": 200,
        "domain.prompt": "implications",
        "domain.answer_prompt": "full",
        "domain.max_segments": 0,
        "domain.baseline": "unchanged",
        # SEAL has no written questions: as many as SQuAD has of a passage, twice over.
        "domain.written.prompt": "questions",
        "domain.written.samples": 1,
        "domain.written.temperature": 0.7,
        "domain.written.top_p": 0.95,
        "domain.written.max_new_tokens": 512,
        "domain.written.most": 10,
        **_update("inner"),  # the defaults of `Update` are those of appendix B.3
        **_update(
            "outer.rest_em",
            rank=64,
            alpha=128.0,
            targets="all-linear",
            learning_rate=3e-4,
            epochs=2,
            batch_size=10,
        ),
        "outer.rest_em.select": "best",  # ties to the first, also where the best edit hurts
    },
    # The embedded model of a million parameters and its world; chosen on seed 0 (docs/results.md).
    "tiny": {
        "contexts": 64,
        "edits": 5,
        "inner_runs": 1,
        "sampling.temperature": 1.0,
        "sampling.top_p": 1.0,
        "sampling.max_new_tokens": 160,
        "answer.max_new_tokens": 8,
        "answer.stop": ("\n",),
        "evaluation.contexts": 64,
        "domain.prompt": "notes",
        "domain.answer_prompt": "short",
        "domain.max_segments": 8,
        "domain.baseline": "passage",
        "domain.written.prompt": "notes-questions",
        "domain.written.samples": 3,
        "domain.written.temperature": 0.7,
        "domain.written.top_p": 1.0,
        "domain.written.max_new_tokens": 128,
        "domain.written.most": 8,
        **_update(
            "inner",
            rank=8,
            alpha=16.0,
            targets="all-linear",
            learning_rate=1e-2,
            epochs=8,
            batch_size=16,
            warmup_steps=2,
        ),
        **_TINY_FINETUNING,
        "outer.rest_em.select": "best_improving",
    },
    # SEAL, few-shot ARC (section 4.2 and appendix A): one round on Llama-3.2-1B-Instruct. Rate, epochs and loss of the
    # inner update are those of the directive.
    "seal_arc": {
        "contexts": 11,
        "edits": 15,
        "inner_runs": 1,
        "sampling.temperature": 0.8,
        "sampling.top_p": 1.0,
        "sampling.max_new_tokens": 128,
        "answer.max_new_tokens": 1856,  # a grid of 30 x 30, with two tokens per cell, and its end
        "answer.stop": ("\n\n",),
        "evaluation.contexts": 8,
        "domain.permutations": 2,
        "domain.max_tokens": 8192,
        "domain.max_examples": 250,
        "domain.max_steps": 375,
        "domain.oracle_augmentations": ("basic", "size", "chain", "repeat"),
        "domain.oracle_rate": 1e-4,
        "domain.oracle_epochs": 2,
        "domain.rates": (1e-5, 1e-4, 1e-3),
        "domain.epochs": (1, 2),
        **_update(
            "inner",
            rank=128,
            alpha=16.0,
            targets="q_proj,v_proj,gate_proj,down_proj,up_proj",
            batch_size=2,
            schedule="cosine",
            warmup_steps=11,
        ),
        **_update(
            "outer.rest_em",
            rank=16,
            alpha=16.0,
            targets="q_proj,v_proj",
            learning_rate=5e-5,
            epochs=8,
            batch_size=5,
            schedule="cosine",
        ),
        "outer.rest_em.select": "solved",
    },
    # The embedded model "tiny_grids" and its world.
    "tiny_arc": {
        "contexts": 32,
        "edits": 5,
        "inner_runs": 1,
        "sampling.temperature": 1.0,
        "sampling.top_p": 1.0,
        "sampling.max_new_tokens": 32,
        "answer.max_new_tokens": 48,
        "answer.stop": ("\n\n",),
        "evaluation.contexts": 64,
        "domain.permutations": 1,
        "domain.max_tokens": 192,
        "domain.max_examples": 12,
        "domain.max_steps": 64,
        "domain.oracle_augmentations": (),
        "domain.oracle_rate": 3e-3,
        "domain.oracle_epochs": 4,
        "domain.rates": (1e-3, 3e-3, 1e-2),
        "domain.epochs": (2, 4),
        **_update(
            "inner",
            rank=16,
            alpha=32.0,
            targets="all-linear",
            batch_size=2,
            schedule="cosine",
            warmup_steps=2,
        ),
        **_TINY_FINETUNING,
        "outer.rest_em.epochs": 18,  # directives are short, and few solve a task
        "outer.rest_em.select": "improvement",  # not edits of tasks that are solved in context
    },
    # LSE (arXiv 2603.18620, appendix A): 32 situations a round with 4 edits each, 10 problems in a summary.
    "lse": {
        "contexts": 32,
        "edits": 4,
        "inner_runs": 1,
        "invalid_reward": -1.0,
        "sampling.temperature": 1.0,
        "sampling.top_p": 1.0,
        "sampling.max_new_tokens": 16384,
        "answer.max_new_tokens": 4096,
        "answer.stop": (),  # to the end of the sequence
        "evaluation.contexts": 10,
        "domain.environments": 200,
        "domain.batch": 10,
        "domain.tree_rounds": 20,
        "domain.tree_edits": 1,
        "domain.selection": "ucb",
        "domain.ucb_c": 2.0,
        **_update(
            "outer.rest_em", rank=64, alpha=128.0, targets="all-linear", learning_rate=3e-4, epochs=2, batch_size=10
        ),
        "outer.rest_em.select": "best_improving",
    },
    # The embedded model "tiny_rules" and its world.
    "tiny_lse": {
        "contexts": 32,
        "edits": 4,
        "inner_runs": 1,
        "invalid_reward": -1.0,
        "sampling.temperature": 1.0,
        "sampling.top_p": 1.0,
        "sampling.max_new_tokens": 96,  # twelve lines of eight
        "answer.max_new_tokens": 16,
        "answer.stop": ("\n",),
        "evaluation.contexts": 32,
        "domain.environments": 32,
        "domain.batch": 5,
        "domain.tree_rounds": 3,
        "domain.tree_edits": 2,
        "domain.selection": "ucb",
        "domain.ucb_c": 0.3,
        **_TINY_FINETUNING,
        "outer.rest_em.select": "best_improving",
    },
    # The embedded model "tiny_tables" and its world: the domain "weights_or_words", which no paper has.
    "tiny_ways": {
        "contexts": 24,
        "edits": 6,
        "inner_runs": 1,
        "invalid_reward": -0.5,
        "sampling.temperature": 1.0,
        "sampling.top_p": 1.0,
        "sampling.max_new_tokens": 128,  # 22 lines of five, and the markers
        "answer.max_new_tokens": 6,
        "answer.stop": ("\n",),
        "evaluation.contexts": 48,
        "domain.most_words": 12,
        **_update(
            "inner",
            rank=8,
            alpha=16.0,
            targets="gate_proj,up_proj,down_proj",  # with those of attention too, it follows instructions less well
            learning_rate=5e-3,
            epochs=12,
            batch_size=4,
            warmup_steps=2,
        ),
        **_TINY_FINETUNING,
        "outer.rest_em.select": "best_improving",
    },
}
# The updates by gradient train an adapter like ReST-EM's. SEAL's paper has no values for them (it found GRPO and PPO
# unstable): a tenth of its learning rate is a start. Those of "tiny" were chosen on seed 100 (docs/results.md). LSE's
# code takes one step per round on all edits.
POLICY_UPDATES = ("reinforce", "rloo", "grpo", "ppo", "dpo")
_POLICY_TRAINING: dict[str, dict[str, Any]] = {
    "seal": dict.fromkeys(POLICY_UPDATES, {"learning_rate": 3e-5, "batch_size": 50, "epochs": 2}),
    "tiny": dict.fromkeys(POLICY_UPDATES, {"learning_rate": 1e-3, "batch_size": 16, "epochs": 2})
    | {
        "grpo": {"learning_rate": 3e-3, "batch_size": 16, "epochs": 2},
        "dpo": {"learning_rate": 3e-4, "batch_size": 8, "epochs": 4},
    },
    "lse": dict.fromkeys(POLICY_UPDATES, {"learning_rate": 1e-6, "batch_size": 128, "epochs": 1, "weight_decay": 0.01}),
}
for _name, _values in PRESETS.items():
    _own = {name: _values[f"outer.rest_em.{name}"] for name in ("rank", "alpha", "targets")} | {"schedule": "constant"}
    for _outer, _training in _POLICY_TRAINING[_name.partition("_")[0]].items():
        # Without ratios to the policy that wrote the edits, those of an earlier epoch are of another policy.
        _once = {"epochs": 1} if _outer in ("reinforce", "rloo") else {}
        _values |= _update(f"outer.{_outer}", **_own | _training | _once)
        del _values[f"outer.{_outer}.gradient_accumulation"]
# Models that come with the package (`assets/`), which the presets "tiny" are for.
EMBEDDED = ("tiny", "tiny_small", "tiny_grids", "tiny_rules", "tiny_tables")
# Of each domain, the preset with a paper's values and that of the embedded model.
PRESETS_OF = {
    "knowledge": ("seal", "tiny"),
    "arc": ("seal_arc", "tiny_arc"),
    "instructions": ("lse", "tiny_lse"),
    "weights_or_words": ("tiny_ways", "tiny_ways"),
}
