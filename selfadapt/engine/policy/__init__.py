"""Training a policy on what it wrote, with any loss of the tokens' log-probabilities."""

from selfadapt.engine.policy.programs import Loss, Statistics, Trained
from selfadapt.engine.policy.rows import Rows, Written
from selfadapt.engine.policy.train import Measured, Step, Trainer
from selfadapt.engine.policy.trainable import Trainable

__all__ = ["Loss", "Measured", "Rows", "Statistics", "Step", "Trainable", "Trained", "Trainer", "Written"]
