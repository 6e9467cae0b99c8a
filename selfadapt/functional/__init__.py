"""Self-edits as pure functions of arrays: sampling, the inner update and the reward, for your own `jit` or `scan`.

The functions have static shapes, take random keys and hyper-parameters as arrays, and return to no host in between.
They are made of the engine's programs, whose results they equal (docs/functional.md).
"""

from selfadapt.functional.encoding import Contexts, Texts, Vocabulary, knowledge_contexts, vocabulary
from selfadapt.functional.episodes import Rewards, edit_rewards, episode
from selfadapt.functional.rounds import Outer, Writer, outer_round, writer
from selfadapt.functional.sampling import Sampled, sample, sample_keys
from selfadapt.functional.scoring import Scores, score
from selfadapt.functional.training import Adapted, Inner, Steps, adapt, inner_update, steps_of

__all__ = [
    "Adapted",
    "Contexts",
    "Inner",
    "Outer",
    "Rewards",
    "Sampled",
    "Scores",
    "Steps",
    "Texts",
    "Vocabulary",
    "Writer",
    "adapt",
    "edit_rewards",
    "episode",
    "inner_update",
    "knowledge_contexts",
    "outer_round",
    "sample",
    "sample_keys",
    "score",
    "steps_of",
    "vocabulary",
    "writer",
]
