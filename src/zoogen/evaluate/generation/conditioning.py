"""Conditioning: whether samples have what was asked of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.stats import rankdata

from zoogen.errors import ConfigError

SHUFFLES = 200


@dataclass(frozen=True)
class OfClass:
    """Cells of networks that were asked for one class, beside those of held-out members of it.

    Attributes:
        name: of the class.
        cells: of generated networks, and of held-out members.
        agreement: share of the generated ones that have the class.
        ceiling: the same of those of held-out members; NaN where there are too few for a cell.
        means: metric → mean over generated networks or their pairs, and over held-out ones.
    """

    name: str
    cells: tuple[int, int]
    agreement: float
    ceiling: float
    means: dict[str, tuple[float, float]]


@dataclass(frozen=True)
class Conditioned:
    """What was asked of samples beside what they are.

    Attributes:
        name: of the quantity.
        kind: ``rank`` (Spearman's correlation) or ``class`` (share of agreement).
        requested, achieved: one per sample that has both; numbers of classes in ``classes``.
        classes: their names; empty for numbers.
        agreement: 1 is ideal.
        shuffled: mean agreement after the requests are dealt out anew among the samples: what
            no conditioning would reach.
        shuffled_high: 97.5 % quantile of the same; an agreement below it proves nothing.
        missing: samples without a request or a measured value.
        how: the achieved value came about.
        ceiling: agreement on held-out members, where what they are is read from weights by a model
            or voted on by cells: as much as samples can reach; NaN where it is measured.
        by_class: the same class by class, where cells are labelled.
    """

    name: str
    kind: str
    requested: tuple[float, ...]
    achieved: tuple[float, ...]
    classes: tuple[str, ...]
    agreement: float
    shuffled: float
    shuffled_high: float
    missing: int
    how: str = "measured"
    ceiling: float = float("nan")
    by_class: tuple[OfClass, ...] = ()


def rank_agreement(
    name: str,
    requested: Float[np.ndarray, " n"],
    achieved: Float[np.ndarray, " n"],
    seed: int = 0,
    *,
    how: str = "measured",
    ceiling: float = float("nan"),
) -> Conditioned:
    """Spearman's correlation of requested and achieved numbers, with the shuffled control.

    Args:
        name: of the quantity.
        requested: values asked for; NaN where none was.
        achieved: values measured on the samples; NaN where there is none.
        seed: of the shuffles.
        how, ceiling: see :class:`Conditioned`.

    Raises:
        ConfigError: if the two differ in length.

    Example:
        >>> rank_agreement("accuracy", np.arange(5.0), np.arange(5.0) ** 3).agreement
        1.0

    Reference:
        Spearman, The proof and measurement of association between two things, 1904; requested
        against achieved losses: Peebles et al., Learning to learn with generative models of
        neural network checkpoints, 2022.
    """
    _require_equal(name, requested, achieved)
    asked, got = np.asarray(requested, float), np.asarray(achieved, float)
    known = np.isfinite(asked) & np.isfinite(got)
    asked, got = asked[known], got[known]
    ranks = rankdata(asked), rankdata(got)
    control = [_correlation(ranks[0][order], ranks[1]) for order in _shuffles(len(asked), seed)]
    return Conditioned(
        name, "rank", tuple(asked.tolist()), tuple(got.tolist()), (),
        _correlation(*ranks), *_mean_and_high(control), int((~known).sum()), how, ceiling,
    )  # fmt: skip


def class_agreement(
    name: str,
    requested: Sequence[str | None],
    achieved: Sequence[str | None],
    seed: int = 0,
    *,
    how: str = "measured",
    ceiling: float = float("nan"),
) -> Conditioned:
    """Share of samples of the class that was asked for (such as a phase), with the control.

    Args:
        name: of the quantity.
        requested: class of each sample; ``None`` where none was asked for.
        achieved: class measured on it; ``None`` where there is none.
        seed: of the shuffles.
        how, ceiling: see :class:`Conditioned`.

    Raises:
        ConfigError: if the two differ in length.

    Example:
        >>> class_agreement("phase", ["I", "II", "II"], ["I", "II", "I"]).agreement.__round__(3)
        0.667
    """
    _require_equal(name, requested, achieved)
    pairs = [(a, b) for a, b in zip(requested, achieved, strict=True) if a and b]
    classes = tuple(sorted({str(value) for pair in pairs for value in pair}))
    numbers = np.array([[classes.index(value) for value in pair] for pair in pairs], int)
    asked, got = numbers.reshape(-1, 2).T
    control = [_share(asked[order] == got) for order in _shuffles(len(asked), seed)]
    return Conditioned(
        name, "class", tuple(map(float, asked)), tuple(map(float, got)), classes,
        _share(asked == got), *_mean_and_high(control), len(requested) - len(pairs), how, ceiling,
    )  # fmt: skip


def _require_equal(name: str, requested: Sequence[object] | np.ndarray, achieved: object) -> None:
    found = len(requested), len(achieved)  # type: ignore[arg-type]
    if found[0] != found[1]:
        raise ConfigError(
            f"conditioning on {name!r}: found {found[0]} requests and {found[1]} measured values, "
            "expected one of each per sample"
        )


def _shuffles(count: int, seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.permutation(count) for _ in range(SHUFFLES)]


def _correlation(a: Float[np.ndarray, " n"], b: Float[np.ndarray, " n"]) -> float:
    """Of ranks; NaN where one side is constant."""
    a, b = a - a.mean() if len(a) else a, b - b.mean() if len(b) else b
    scale = np.sqrt((a**2).sum() * (b**2).sum())
    return float((a * b).sum() / scale) if scale > 0 else float("nan")


def _share(equal: np.ndarray) -> float:
    return float(equal.mean()) if equal.size else float("nan")


def _mean_and_high(control: Sequence[float]) -> tuple[float, float]:
    values = np.array(control)
    if not np.isfinite(values).all():
        return float("nan"), float("nan")
    return float(values.mean()), float(np.quantile(values, 0.975))
