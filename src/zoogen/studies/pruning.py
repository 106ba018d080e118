"""Magnitude pruning: the smallest weights become zero, and what is left may be retrained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Float, Float32

from zoogen.errors import ConfigError
from zoogen.grid import Member
from zoogen.params import ParamSpec
from zoogen.progress import Advance, scaled
from zoogen.studies.estimates import Estimate, compare_members
from zoogen.studies.trainees import Trainees
from zoogen.train import Recipe, TrainingData, continue_training

SPARSITIES = (0.5, 0.8, 0.9, 0.95)
ROUNDS = 5
"""Rounds of gradual pruning."""


@dataclass(frozen=True)
class Pruning:
    """What is pruned, and how training goes on.

    Training goes back to an earlier learning rate and repeats the rest of the schedule, on the
    weights as they are. Rounds of pruning begin at equal distances in the first half of that
    stretch, the first at once, so that half of it and more is left to recover from the last;
    after round i of n the share ``sparsity * (1 - (1 - i/n)^3)`` is zero. The number of rounds
    changes when weights go, and nothing else: one round is pruning at once.

    Attributes:
        sparsity: share of the weights that are zero at the end, 0 to 1.
        rounds: in which they go.
        epochs: how far the learning rate goes back; half of the training's when absent.

    Reference:
        Renda, Frankle and Carbin, Comparing rewinding and fine-tuning in neural network pruning,
        2020 (learning-rate rewinding); Zhu and Gupta, To prune, or not to prune, 2017 (the growth
        of sparsity).
    """

    sparsity: float
    rounds: int = 1
    epochs: int | None = None

    def steps(self, recipe: Recipe) -> list[int]:
        """Where rounds begin in the schedule of a recipe, and its end.

        Raises:
            ConfigError: if the schedule is shorter than what shall be repeated.
        """
        line = recipe.timeline
        length = (self.epochs or -(-line.n_epochs // 2)) * line.steps_per_epoch
        if self.epochs and length > line.total_steps:
            raise ConfigError(
                f"retraining: found {self.epochs} epochs, but members were trained for "
                f"{line.total_steps / line.steps_per_epoch:g}; the learning rate can't go back "
                "further than to the start: choose fewer"
            )
        length = min(length, line.total_steps)
        begin = line.total_steps - length
        rounds = [begin + round(length * i / self.rounds / 2) for i in range(self.rounds)]
        return [*rounds, line.total_steps]

    def shares(self) -> list[float]:
        """Share of the weights that are zero after each round.

        Example:
            >>> Pruning(0.5, rounds=2).shares(), Pruning(0.5).shares()
            ([0.4375, 0.5], [0.5])
        """
        rest = (1 - i / self.rounds for i in range(1, self.rounds + 1))
        return [self.sparsity * (1 - share**3) for share in rest]


def retrain(
    pruning: Pruning,
    recipe: Recipe,
    data: TrainingData,
    members: Sequence[Member],
    weights: Float32[np.ndarray, "m p"],
    on_members: Advance = lambda members: None,
) -> tuple[Float32[np.ndarray, "m p"], Float32[np.ndarray, "m p"]]:
    """Prune members and train what is left.

    Returns:
        Their weights as they are pruned for the last time, and at the end; what is zero there
        was zero here. NaN for members that diverged.

    Raises:
        ConfigError: if training can't go back that far.
    """
    steps, spec = pruning.steps(recipe), recipe.net.spec
    length = steps[-1] - steps[0]
    for share, (begin, stop) in zip(pruning.shares(), pairwise(steps), strict=True):
        mask = kept(spec, weights, share)
        before = np.where(mask, weights, np.float32(0))
        advance = scaled(on_members, (stop - begin) / length)
        steps_on = continue_training(recipe, data, members, before, mask, (begin, stop), advance)
        weights = steps_on[:, -1]
    return before, weights


def kept(
    spec: ParamSpec, values: Float[np.ndarray, "m p"], sparsity: float
) -> Bool[np.ndarray, "m p"]:
    """Which weights stay when a share of each member's goes, the smallest in magnitude first.

    Args:
        spec: of the network. Biases (parameters of one axis) stay and do not count.
        values: flat weights; not finite ones stay, so that a diverged member is still told.
        sparsity: share that goes, 0 to 1.

    Example:
        >>> from zoogen.params import Axis
        >>> spec = ParamSpec.build({"weight": (Axis(2), Axis(2)), "bias": (Axis(2),)})
        >>> kept(spec, np.array([[3.0, -1.0, 2.0, -4.0, 0.1, 0.1]]), 0.5).tolist()
        [[True, False, False, True, True, True]]
    """
    places = [p.offset + np.arange(p.size) for p in spec.parameters if len(p.axes) > 1]
    prunable = np.concatenate(places)
    order = np.argsort(np.abs(values[:, prunable]), axis=1, kind="stable")
    mask = np.ones(values.shape, bool)
    smallest = prunable[order[:, : round(sparsity * len(prunable))]]
    np.put_along_axis(mask, smallest, False, axis=1)
    return mask | ~np.isfinite(values)


def pruned(
    spec: ParamSpec, values: Float[np.ndarray, "m p"], sparsity: float
) -> Float[np.ndarray, "m p"]:
    """The weights with zeros where :func:`kept` keeps nothing."""
    return np.where(kept(spec, values, sparsity), values, values.dtype.type(0))


def prune(members: Trainees) -> Iterator[Estimate]:
    """Prune over all layers: at once, at once and retrained, and gradually.

    What is not retrained is compared with the member as it is; what is, with the member trained
    through the same stretch again unpruned, so that the gain is that of pruning alone.

    Reference:
        Han, Pool, Tran and Dally, Learning both weights and connections for efficient neural
        networks, 2015; the threshold here is one for all layers. Retraining: :class:`Pruning`.
    """
    subjects = members.subjects
    advance = scaled(members.on_members, 1 / (2 * len(SPARSITIES) + 1))

    def retrained(pruning: Pruning) -> Float[np.ndarray, " m"]:
        recipe, data, people = members.recipe, members.data, members.members
        return subjects.accuracy(retrain(pruning, recipe, data, people, last, advance)[1])

    last = subjects.weights(subjects.snapshots - 1)
    before, dense = subjects.accuracy(last), retrained(Pruning(0.0))
    variants = {
        "at once": (before, lambda s: subjects.accuracy(pruned(subjects.network.spec, last, s))),
        "retrained": (dense, lambda s: retrained(Pruning(s))),
        "gradual": (dense, lambda s: retrained(Pruning(s, ROUNDS))),
    }
    for variant, (reference, accuracy_at) in variants.items():
        for sparsity in SPARSITIES:
            found = accuracy_at(sparsity)
            yield from compare_members(subjects.by_cell(), sparsity, found, reference, variant)
