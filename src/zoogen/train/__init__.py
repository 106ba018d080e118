"""Population training: cohorts of members in one compiled program."""

from zoogen.train.block import TrainedBlock, recipe_of, train_block, training_data
from zoogen.train.program import Recipe

__all__ = ["Recipe", "TrainedBlock", "recipe_of", "train_block", "training_data"]
