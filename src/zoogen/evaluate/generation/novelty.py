"""Novelty: how many networks are both good and new, and what a generator gains at equal novelty."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from zoogen.evaluate.generation.copying import relative_distances
from zoogen.evaluate.generation.neighbours import Nearest
from zoogen.evaluate.generation.views import QUANTILE

FAR_ENOUGH = 0.9  # of the held-out median distance


@dataclass(frozen=True)
class Gate:
    """What a network must be to count as good and new.

    Attributes:
        accuracy: at least; the 10 % quantile of held-out members.
        distance_ratio: at least, see
            :func:`~zoogen.evaluate.generation.copying.relative_distances`.
        overlap: of wrong predictions with a training member, at most; the 90 % quantile of
            held-out members, on the view of :mod:`~zoogen.evaluate.generation.views`.
    """

    accuracy: float
    distance_ratio: float
    overlap: float

    def passed(
        self,
        accuracy: Float[np.ndarray, " n"],
        distance_ratio: Float[np.ndarray, " n"],
        overlap: Float[np.ndarray, " n"],
    ) -> Bool[np.ndarray, " n"]:
        """Which networks pass all three."""
        with np.errstate(invalid="ignore"):
            return (
                (accuracy >= self.accuracy)
                & (distance_ratio >= self.distance_ratio)
                & (overlap <= self.overlap)
            )


def gate_of(accuracy: Float[np.ndarray, " m"], held_out: Nearest) -> Gate:
    """The gate that held-out members set."""
    return Gate(
        float(np.quantile(accuracy, 0.1)),
        FAR_ENOUGH,
        float(np.quantile(held_out.overlap, QUANTILE)),
    )


@dataclass(frozen=True)
class Yield:
    """Shares of networks that pass the gate; what is not finite passes nothing.

    Attributes:
        gate: set by the held-out members.
        all: share that passes the three conditions.
        accurate, distant, different: share that passes each.
        nominal: share of the held-out members that pass all three: what a perfect generator gets.
    """

    gate: Gate
    all: float
    accurate: float
    distant: float
    different: float
    nominal: float


def novelty_yield(
    accuracy: Float[np.ndarray, " n"],
    generated: Nearest,
    real_accuracy: Float[np.ndarray, " m"],
    held_out: Nearest,
) -> Yield:
    """How many networks are as good as real ones and as far from the training members.

    Args:
        accuracy: of the generated, of all of them.
        generated: their neighbours; NaN for networks that are not finite.
        real_accuracy: of the held-out members.
        held_out: their neighbours.
    """
    gate, relative = gate_of(real_accuracy, held_out), relative_distances(generated, held_out)
    with np.errstate(invalid="ignore"):
        return Yield(
            gate=gate,
            all=_share(passing(accuracy, generated, real_accuracy, held_out)),
            accurate=_share(accuracy >= gate.accuracy),
            distant=_share(relative >= gate.distance_ratio),
            different=_share(generated.overlap <= gate.overlap),
            nominal=_share(passing(real_accuracy, held_out, real_accuracy, held_out)),
        )


def passing(
    accuracy: Float[np.ndarray, " n"],
    networks: Nearest,
    real_accuracy: Float[np.ndarray, " m"],
    held_out: Nearest,
) -> Bool[np.ndarray, " n"]:
    """Which networks pass the gate that held-out members set; arguments as above."""
    gate, relative = gate_of(real_accuracy, held_out), relative_distances(networks, held_out)
    return gate.passed(accuracy, relative, networks.overlap)


def far_enough(held_out: Nearest) -> float:
    """The distance from which on a network is new, and two are distinct."""
    return FAR_ENOUGH * float(np.median(held_out.distance))


def _share(passed: Bool[np.ndarray, " n"]) -> float:
    return float(passed.mean()) if passed.size else float("nan")


# -------------------------------------------------------------------- gain at equal novelty
@dataclass(frozen=True)
class Point:
    """One setting of a baseline, or a generator: means over its networks.

    Attributes:
        setting: such as the standard deviation of noise.
        accuracy: test accuracy.
        overlap: largest overlap of wrong predictions with a training member; the lower, the more
            novel.
        distance_ratio: median distance to the nearest training member ÷ the held-out one.
    """

    setting: str
    accuracy: float
    overlap: float
    distance_ratio: float


@dataclass(frozen=True)
class Curve:
    """What a baseline reaches at each of its settings."""

    name: str
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Gain:
    """A generator against a baseline of equal novelty.

    Attributes:
        baseline: name of its curve.
        gain: accuracy of the generator − that of the baseline where its overlap is the
            generator's; NaN where the curve does not go there.
        at_least: the same against the most novel setting of the baseline, where the generator is
            more novel than that: a more novel one would be less accurate still. NaN elsewhere.
        reason: why there is no gain; empty where there is one.
    """

    baseline: str
    gain: float
    at_least: float = float("nan")
    reason: str = ""


def gain_at_equal_novelty(generator: Point, curve: Curve) -> Gain:
    """Compare with a baseline, interpolated linearly between settings, never beyond them.

    Only settings count that no other one beats in both accuracy and novelty: much noise makes
    networks that are all wrong, hence alike again.

    Example:
        >>> curve = Curve("noise", (Point("0", 0.9, 1.0, 0.0), Point("1", 0.5, 0.2, 2.0)))
        >>> round(gain_at_equal_novelty(Point("", 0.8, 0.6, 1.0), curve).gain, 6)
        0.1
        >>> gain_at_equal_novelty(Point("", 0.8, 0.1, 1.0), curve).reason
        'overlap 0.100 is below the curve, which ends with setting 1 at 0.200, accuracy 0.500'
    """
    best = frontier(curve)
    if not best or not np.isfinite(generator.overlap):
        return Gain(curve.name, float("nan"), reason="no finite network to compare")
    overlaps = [point.overlap for point in best]
    if overlaps[0] <= generator.overlap <= overlaps[-1]:
        there = np.interp(generator.overlap, overlaps, [point.accuracy for point in best])
        return Gain(curve.name, float(generator.accuracy - there))
    below = generator.overlap < overlaps[0]
    side, end = ("below", best[0]) if below else ("above", best[-1])
    return Gain(
        curve.name,
        float("nan"),
        generator.accuracy - end.accuracy if below else float("nan"),
        f"overlap {generator.overlap:.3f} is {side} the curve, which ends with setting "
        f"{end.setting} at {end.overlap:.3f}, accuracy {end.accuracy:.3f}",
    )


def frontier(curve: Curve) -> list[Point]:
    """The settings that no other one equals or beats in both, from the most novel on; their
    accuracies grow."""
    finite = [p for p in curve.points if np.isfinite(p.overlap) and np.isfinite(p.accuracy)]
    best: list[Point] = []
    for point in sorted(finite, key=lambda point: (point.overlap, -point.accuracy)):
        if not best or point.accuracy > best[-1].accuracy:
            best.append(point)
    return best
