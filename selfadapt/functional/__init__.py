"""Self-edits as pure functions of arrays: sampling, the inner update and the reward, for your own `jit` or `scan`.

The functions have static shapes, take random keys and hyper-parameters as arrays, and return to no host in between.
They are made of the engine's programs, whose results they equal (docs/functional.md).
"""

from selfadapt.functional.sampling import Sampled, sample, sample_keys
from selfadapt.functional.scoring import Scores, score
from selfadapt.functional.training import Adapted, Inner, Steps, adapt, inner_update, steps_of

__all__ = [
    "Adapted",
    "Inner",
    "Sampled",
    "Scores",
    "Steps",
    "adapt",
    "inner_update",
    "sample",
    "sample_keys",
    "score",
    "steps_of",
]
