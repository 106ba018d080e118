"""Readers: one interface of everything that predicts a target from a network."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float

from zoogen.progress import Advance

if TYPE_CHECKING:
    from zoogen.evaluate.problem import Problem

Options = Mapping[str, Any]


def _silent(share: float) -> None:
    pass


@dataclass(frozen=True)
class Training:
    """What every reader that is trained by gradients gets, the same for all.

    Attributes:
        steps: optimiser steps.
        batch_size: samples per step.
        looks: how often the validation error is taken; the best look's weights count.
        advance: told at every look which share of the fit is done since the last one; shows
            progress, and ends the fit where a signal asks for it.
    """

    steps: int = 2000
    batch_size: int = 64
    looks: int = 20
    advance: Advance = _silent


class Fitted(NamedTuple):
    """A reader after fitting.

    Attributes:
        outputs: predictions for all samples, those of other rows than the training rows too: the
            target on its own scale, or logits of the classes.
        parameters: numbers that were fitted.
        step_seconds: time of one optimiser step, compilation apart; ``None`` without steps.
        curve: step, training loss and validation error at each look; empty without steps.
    """

    outputs: Float[np.ndarray, "n o"]
    parameters: int
    step_seconds: float | None
    curve: Sequence[tuple[int, float, float]]


@dataclass(frozen=True)
class Reader:
    """A way to predict a target.

    Attributes:
        definition: one sentence that says what it sees and what it is, with its source.
        fit: ``(problem, options, training, seed) → Fitted``; sees targets of training rows, and
            of validation rows to choose a look, never those of test rows.
        space: option → the values that tuning may choose from, the default first.
        mixed: whether it reads samples of several specs.
        told: whether it is told the test targets, too: a bound, no competitor.
    """

    definition: str
    fit: Callable[[Problem, Options, Training, int], Fitted]
    space: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    mixed: bool = False
    told: bool = False
