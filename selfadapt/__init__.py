"""Meta-learning for language models that adapt themselves, in JAX.

`load_model` reads a Hugging Face model, `adapt` trains one LoRA adapter per `Update`, many at once, and
`generate` and `log_likelihood` use them, also many at once.

A name is imported when it is first used, so that `selfadapt --help` does not wait for JAX.
"""

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

_HOMES = {
    "Adapters": "models.lora",
    "ContextEdit": "types",
    "ContextUpdate": "types",
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


if TYPE_CHECKING:  # what type checkers and editors see; tests/test_layout.py compares it with the table above
    from selfadapt.engine.adapt import adapt as adapt
    from selfadapt.engine.generate import generate as generate
    from selfadapt.engine.score import log_likelihood as log_likelihood
    from selfadapt.models.lora import Adapters as Adapters
    from selfadapt.models.model import Model as Model
    from selfadapt.models.model import load_model as load_model
    from selfadapt.models.peft import load_peft as load_peft
    from selfadapt.models.peft import merge as merge
    from selfadapt.models.peft import save_peft as save_peft
    from selfadapt.parallel.sharding import make_mesh as make_mesh
    from selfadapt.types import ContextEdit as ContextEdit
    from selfadapt.types import ContextUpdate as ContextUpdate
    from selfadapt.types import Edit as Edit
    from selfadapt.types import Outcome as Outcome
    from selfadapt.types import Question as Question
    from selfadapt.types import Task as Task
    from selfadapt.types import TokenSequence as TokenSequence
    from selfadapt.types import Update as Update
else:

    def __getattr__(name: str):
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
