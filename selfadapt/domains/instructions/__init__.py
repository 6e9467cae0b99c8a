"""Instructions that a policy rewrites after seeing how a frozen model answers with them (LSE, arXiv 2603.18620)."""

from selfadapt.domains.instructions.domain import Instructions, Situation, make, make_style
from selfadapt.domains.instructions.environment import (
    EditStyle,
    Environment,
    EnvironmentSource,
    Evaluated,
    Explained,
    Problem,
    Verdict,
)
from selfadapt.domains.instructions.growing import Growth, grow_trees
from selfadapt.domains.instructions.nodes import Candidate, NodeResult, Writer, evaluate_nodes

__all__ = [
    "Candidate",
    "EditStyle",
    "Environment",
    "EnvironmentSource",
    "Evaluated",
    "Explained",
    "Growth",
    "Instructions",
    "NodeResult",
    "Problem",
    "Situation",
    "Verdict",
    "Writer",
    "evaluate_nodes",
    "grow_trees",
    "make",
    "make_style",
]
