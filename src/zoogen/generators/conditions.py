"""Conditions: what a generator is told about the networks that it shall make, as numbers."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float32, Float64

from zoogen.errors import ConfigError

if TYPE_CHECKING:
    import pandas as pd

DECADES = 10.0
"""Positive numbers that span more than this factor are taken on a logarithmic scale."""

FORGET_ALL, FORGET_ONE = 0.1, 0.2
"""Chances in training that all conditions, or each of them, are left open."""

Wish = Mapping[str, float | str]


@dataclass(frozen=True)
class Quantity:
    """One condition: a number, or one of several classes.

    Attributes:
        name: column of :attr:`zoogen.Zoo.members`.
        classes: in order; empty for a number.
        logarithmic: whether its logarithm counts.
        mean, deviation: of the training members, after the logarithm.
        low, high: the range that the training members have.
    """

    name: str
    classes: tuple[str, ...] = ()
    logarithmic: bool = False
    mean: float = 0.0
    deviation: float = 1.0
    low: float = 0.0
    high: float = 0.0

    @property
    def size(self) -> int:
        """Numbers that stand for it: its value or classes, and whether it is given."""
        return (len(self.classes) or 1) + 1

    def encode(self, values: Sequence[Any]) -> Float32[np.ndarray, "n e"]:
        """One row a value; zeros where it is not known."""
        if self.classes:
            one_hot = np.array([[value == name for name in self.classes] for value in values], bool)
            return np.column_stack([one_hot, one_hot.any(axis=1)]).astype(np.float32)
        numbers = np.asarray(values, np.float64)
        with np.errstate(invalid="ignore", divide="ignore"):
            numbers = np.log(numbers) if self.logarithmic else numbers
        scaled = (numbers - self.mean) / self.deviation
        known = np.isfinite(scaled)
        return np.column_stack([np.where(known, scaled, 0), known]).astype(np.float32)

    def decode(self, rows: Float32[np.ndarray, "n e"]) -> Float64[np.ndarray, " n"]:
        """The numbers that :meth:`encode` took; NaN where they are not known."""
        scaled = rows[:, 0].astype(np.float64) * self.deviation + self.mean
        return np.where(rows[:, -1] > 0, np.exp(scaled) if self.logarithmic else scaled, np.nan)


@dataclass(frozen=True)
class Conditioning:
    """All conditions of a run; encodes members and wishes the same way.

    Attributes:
        quantities: in the order of the vector.
    """

    quantities: tuple[Quantity, ...] = ()

    @property
    def size(self) -> int:
        """Length of the condition vector."""
        return sum(quantity.size for quantity in self.quantities)

    def of_members(self, table: pd.DataFrame) -> Float32[np.ndarray, "n e"]:
        """Condition vectors of members, from their rows."""
        columns = [q.encode(table[q.name].tolist()) for q in self.quantities]
        return np.concatenate([np.zeros((len(table), 0), np.float32), *columns], axis=1)

    def of_wish(self, wish: Wish, count: int) -> Float32[np.ndarray, "n e"]:
        """The vector of a wish, ``count`` times; what it does not name is left open.

        Raises:
            ConfigError: if it names something that the run was not trained with, or a class or a
                number that no training member has.
        """
        known = {quantity.name: quantity for quantity in self.quantities}
        for name in wish:
            if name not in known:
                raise ConfigError(_unknown(name, list(known)))
        rows = [
            quantity.encode([_checked(quantity, wish[quantity.name])] * count)
            if quantity.name in wish
            else np.zeros((count, quantity.size), np.float32)
            for quantity in self.quantities
        ]
        return np.concatenate([np.zeros((count, 0), np.float32), *rows], axis=1)

    def asked(self, name: str, conditions: Float32[np.ndarray, "n e"]) -> Float64[np.ndarray, " n"]:
        """What rows of condition vectors say of a number; NaN where they leave it open."""
        place = 0
        for quantity in self.quantities:
            if quantity.name == name:
                return quantity.decode(conditions[:, place : place + quantity.size])
            place += quantity.size
        return np.full(len(conditions), np.nan)

    def to_json(self) -> list[dict[str, Any]]:
        """Plain data for a run's file."""
        return [asdict(quantity) for quantity in self.quantities]

    @classmethod
    def from_json(cls, found: list[dict[str, Any]]) -> Conditioning:
        """What :meth:`to_json` returned."""
        return cls(tuple(Quantity(**{**q, "classes": tuple(q["classes"])}) for q in found))


def forgotten(
    rng: np.random.Generator, sizes: Sequence[int], lead: tuple[int, ...]
) -> Bool[np.ndarray, "*lead e"]:
    """Entries of condition vectors to set to zero: of all conditions, or of each by itself.

    Args:
        rng: of the choice.
        sizes: entries that stand for each condition, which are forgotten together.
        lead: shape of the batch.

    Reference:
        Ho and Salimans, Classifier-free diffusion guidance, 2022.
    """
    every = rng.random((*lead, 1)) < FORGET_ALL
    single = rng.random((*lead, len(sizes))) < FORGET_ONE
    return np.repeat(every | single, sizes, axis=-1)


def conditioning_of(table: pd.DataFrame, names: Sequence[str]) -> Conditioning:
    """Conditions on columns of the training members.

    Args:
        table: rows of the training members.
        names: columns: hyper-parameters, metrics, ``phase``.

    Raises:
        ConfigError: if there is no such column, or it has one value only.

    Example:
        >>> import pandas as pd
        >>> table = pd.DataFrame({"phase": ["I", "II"], "train.learning_rate": [0.01, 1.0]})
        >>> conditions = conditioning_of(table, ["phase", "train.learning_rate"])
        >>> conditions.of_wish({"train.learning_rate": 1.0}, 1).tolist()
        [[0.0, 0.0, 0.0, 1.0, 1.0]]
    """
    for name in names:
        if name not in table:
            known = [str(column) for column in table]
            raise ConfigError(_unknown(name, known, "the members have no such column"))
    return Conditioning(tuple(_quantity(name, table[name]) for name in names))


def completed(
    asked: Float32[np.ndarray, "n e"], known: Float32[np.ndarray, "m e"], seed: int
) -> Float32[np.ndarray, "n e"]:
    """Where nothing is asked, what a training member has: first the conditions, then the weights.

    Both together are distributed as weights without conditions, and each is easier to learn.

    Args:
        asked: condition vectors; of those with an entry the rest stays open.
        known: of the training members; with none of them nothing is completed.
        seed: of the draw.

    Example:
        >>> completed(np.zeros((2, 2), np.float32), np.array([[0.5, 1.0]], np.float32), 0).tolist()
        [[0.5, 1.0], [0.5, 1.0]]
    """
    if not len(known):
        return asked
    drawn = known[np.random.default_rng([seed, 2]).integers(len(known), size=len(asked))]
    return np.where(asked.any(axis=1, keepdims=True), asked, drawn)


def _quantity(name: str, column: pd.Series) -> Quantity:
    from pandas.api.types import is_numeric_dtype

    present = column.dropna()
    if present.nunique() < 2:
        raise ConfigError(
            f"condition {name!r}: found {present.nunique()} different values in the training "
            "members, expected at least two; leave it out"
        )
    if not is_numeric_dtype(present):
        return Quantity(name, classes=tuple(sorted(map(str, present.unique()))))
    values = present.to_numpy(np.float64)
    low, high = float(values.min()), float(values.max())
    logarithmic = low > 0 and high / low > DECADES
    scaled = np.log(values) if logarithmic else values
    return Quantity(
        name, (), logarithmic, float(scaled.mean()), float(scaled.std()) or 1.0, low, high
    )


def parse_wish(texts: Sequence[str]) -> dict[str, float | str]:
    """A wish from ``name=value`` texts.

    Raises:
        ConfigError: if a text has another form.

    Example:
        >>> parse_wish(["phase=IV-B", "test_accuracy=0.9"])
        {'phase': 'IV-B', 'test_accuracy': 0.9}
    """
    wish: dict[str, float | str] = {}
    for text in texts:
        name, sign, value = (part.strip() for part in text.partition("="))
        if not (name and sign and value):
            raise ConfigError(f"--condition {text!r}: expected name=value, as in phase=IV-B")
        try:
            wish[name] = float(value)
        except ValueError:
            wish[name] = value
    return wish


def _checked(quantity: Quantity, value: float | str) -> float | str:
    if quantity.classes:
        if str(value) not in quantity.classes:
            raise ConfigError(
                f"condition {quantity.name!r}: found {value!r}, the run was trained with "
                f"{', '.join(quantity.classes)}"
            )
        return str(value)
    if not isinstance(value, float | int) or not quantity.low <= value <= quantity.high:
        raise ConfigError(
            f"condition {quantity.name!r}: found {value!r}, expected a number from "
            f"{quantity.low:g} to {quantity.high:g}, the range of the training members"
        )
    return value


def _unknown(name: str, known: list[str], why: str = "the run was not trained with it") -> str:
    near = difflib.get_close_matches(name, known, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    return f"condition {name!r}: {why}{hint}; there are: {', '.join(known) or 'none'}"
