"""Population training: cohorts of members in one compiled program."""

from zoogen.train.block import (
    TrainedBlock,
    continue_training,
    initial_weights,
    recipe_of,
    train_block,
    training_data,
)
from zoogen.train.program import Recipe, TrainingData

__all__ = [
    "Recipe",
    "TrainedBlock",
    "TrainingData",
    "continue_training",
    "initial_weights",
    "recipe_of",
    "train_block",
    "training_data",
]
