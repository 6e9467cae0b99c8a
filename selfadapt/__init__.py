"""Language models that adapt themselves: SEAL and LSE in JAX.

The engine in one breath: `load_model` reads a Hugging Face model, `adapt` trains many LoRA adapters on
many `Update`s at once, `generate` and `log_likelihood` use each row's own adapter.

A name is imported when it is first used, so that `selfadapt --help` does not wait for JAX.
"""

import importlib

__version__ = "0.1.0"

_HOMES = {
    "Adapters": "models.lora",
    "ContextEdit": "types",
    "Edit": "types",
    "Model": "models.model",
    "Outcome": "types",
    "Question": "types",
    "Task": "types",
    "TokenSequence": "types",
    "Update": "types",
    "adapt": "engine.adapt",
    "generate": "engine.generate",
    "load_model": "models.model",
    "load_peft": "models.peft",
    "log_likelihood": "engine.score",
    "make_mesh": "parallel.sharding",
    "merge": "models.peft",
    "save_peft": "models.peft",
}

__all__ = list(_HOMES)


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
