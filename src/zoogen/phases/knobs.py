"""Knobs: which way the load and the temperature of training grow along a hyper-parameter."""

from __future__ import annotations

from typing import Literal

Knob = Literal["load", "temperature"]

DIRECTIONS: dict[Knob, dict[str, int]] = {
    "load": {
        "network.width": -1, "network.depth": -1,
        "data.fraction": +1, "data.train_examples": +1, "data.label_noise": +1,
    },
    "temperature": {
        "train.learning_rate": +1, "train.momentum": +1, "train.weight_decay": +1,
        "train.batch_size": -1, "train.epochs": -1, "train.steps": -1,
    },
}  # fmt: skip
"""Knob → hyper-parameter → +1 if the knob grows with its value, −1 if it falls.

Noisy labels ask for more capacity, so they are load.
"""


def grows(knob: Knob, key: str) -> int:
    """How a knob changes along a hyper-parameter: +1, −1, or 0 where that is not known.

    Example:
        >>> grows("load", "network.width"), grows("temperature", "train.learning_rate")
        (-1, 1)
    """
    return DIRECTIONS[knob].get(key, 0)
