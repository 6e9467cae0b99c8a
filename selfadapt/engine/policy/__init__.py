"""Training a policy on what it wrote, with any loss of its tokens; finetuning all weights of a model on texts."""

from selfadapt.engine.policy.finetune import Finetuned, finetune
from selfadapt.engine.policy.programs import Loss, Statistics, Trained
from selfadapt.engine.policy.rows import Rows, Written
from selfadapt.engine.policy.train import DivergedError, Measured, Step, Trainer
from selfadapt.engine.policy.trainable import Trainable

__all__ = [
    "DivergedError",
    "Finetuned",
    "Loss",
    "Measured",
    "Rows",
    "Statistics",
    "Step",
    "Trainable",
    "Trained",
    "Trainer",
    "Written",
    "finetune",
]
