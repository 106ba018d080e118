"""Merging: members combined in weight space, and what lies between them.

Barriers before and after alignment, repaired or recomputed statistics of hidden units, star models,
and sums of task vectors with learned coefficients.
"""

from zoogen.merging.barriers import Barriers, Line, barriers, points_between
from zoogen.merging.loss import loss_of
from zoogen.merging.repair import Moments, moments, repair
from zoogen.merging.star import StarTraining, star_model
from zoogen.merging.statistics import recompute_statistics
from zoogen.merging.vectors import add_vectors, learn_coefficients, task_vectors

__all__ = [
    "Barriers",
    "Line",
    "Moments",
    "StarTraining",
    "add_vectors",
    "barriers",
    "learn_coefficients",
    "loss_of",
    "moments",
    "points_between",
    "recompute_statistics",
    "repair",
    "star_model",
    "task_vectors",
]
