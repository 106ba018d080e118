"""A population parted: what generators may see, and the evaluator that alone holds the rest."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from zoogen.evaluate.generation.behaviour import Images
from zoogen.evaluate.generation.evaluator import Evaluator
from zoogen.evaluate.generation.neighbours import CANDIDATES
from zoogen.evaluate.generation.views import Exam
from zoogen.generators.parts import Parts
from zoogen.networks import Network


class Offered(NamedTuple):
    """All that a generator may see of a population.

    Attributes:
        network: the architecture.
        train: flat weights that it is fitted on.
        validation: flat weights on which it chooses its best step.
    """

    network: Network
    train: Float[np.ndarray, "n p"]
    validation: Float[np.ndarray, "v p"]


def separate(
    network: Network,
    weights: Float[np.ndarray, "m p"],
    parts: Parts,
    exam: Exam,
    probes: Images,
    candidates: int | None = CANDIDATES,
) -> tuple[Offered, Evaluator]:
    """Part a population into what generators may see and the evaluator that keeps the rest.

    Args:
        network: the architecture of all rows.
        weights: of the population.
        parts: see :func:`~zoogen.generators.parts.split_runs`.
        exam, probes, candidates: see :class:`Evaluator`.

    Raises:
        ConfigError: see :class:`Evaluator`.
    """
    train, validation, held_out = (weights[rows] for rows in parts)
    evaluator = Evaluator(network, train, held_out, exam, probes, candidates)
    return Offered(network, train, validation), evaluator
