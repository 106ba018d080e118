"""The table of metrics: one row says what a number is, where it may lie and who defined it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from zoogen.errors import ConfigError


@dataclass(frozen=True)
class Metric:
    """What a measured array means.

    Attributes:
        name: of the array.
        group: metrics of a group are measured together.
        definition: in one line.
        unit: of the values; empty for pure numbers.
        low: smallest possible value; ``None`` if unbounded.
        high: largest possible value; ``None`` if unbounded.
        axes: of the array, in order.
        reference: author and year.
        permutation_symmetric: unchanged when the hidden units of a member are reordered (the
            same way at all its snapshots).
    """

    name: str
    group: str
    definition: str
    unit: str
    low: float | None
    high: float | None
    axes: tuple[str, ...]
    reference: str
    permutation_symmetric: bool = True


_MEMBER = ("member", "snapshot")
_PAIR = ("pair", "snapshot")
_CURVE = (*_PAIR, "t")
_GARIPOV = "Garipov et al., 2018"
_YANG = "Yang et al., 2021"

_ROWS = (
    Metric("train_loss", "performance", "mean cross-entropy on the training probe set, labels as "
           "trained on", "nats", 0, None, _MEMBER, "Bishop, 2006"),
    Metric("train_error", "performance", "misclassified share of the training probe set, labels "
           "as trained on", "%", 0, 100, _MEMBER, "Bishop, 2006"),
    Metric("train_accuracy", "performance", "correctly classified share of the training probe "
           "set, labels as trained on", "", 0, 1, _MEMBER, "Bishop, 2006"),
    Metric("test_loss", "performance", "mean cross-entropy on the test probe set", "nats", 0, None,
           _MEMBER, "Bishop, 2006"),
    Metric("test_error", "performance", "misclassified share of the test probe set", "%", 0, 100,
           _MEMBER, "Bishop, 2006"),
    Metric("test_accuracy", "performance", "correctly classified share of the test probe set", "",
           0, 1, _MEMBER, "Bishop, 2006"),
    Metric("generalisation_gap", "performance", "train accuracy minus test accuracy", "", -1, 1,
           _MEMBER, "Zhang et al., 2017"),
    Metric("hessian_trace", "curvature", "trace of the Hessian of the training loss, mean of "
           "v'Hv over Rademacher probes", "nats", None, None, _MEMBER, "Hutchinson, 1989"),
    Metric("hessian_trace_stderr", "curvature", "standard error of hessian_trace over its probes",
           "nats", 0, None, _MEMBER, "Hutchinson, 1989"),
    Metric("hessian_top", "curvature", "largest (algebraic) eigenvalue of the Hessian of the "
           "training loss, by Lanczos", "nats", None, None, _MEMBER, "Lanczos, 1950"),
    Metric("hessian_top_residual", "curvature", "norm of Hu - hessian_top u for its unit vector "
           "u: an eigenvalue lies no farther off", "nats", 0, None, _MEMBER, "Parlett, 1998"),
    Metric("curve_train_error", "connectivity", "train error along the trained Bézier curve", "%",
           0, 100, _CURVE, _GARIPOV, False),
    Metric("curve_train_loss", "connectivity", "train loss along the trained Bézier curve", "nats",
           0, None, _CURVE, _GARIPOV, False),
    Metric("mode_connectivity", "connectivity", "mean train error of the ends minus train error "
           "at worst_t; below 0 a barrier", "percentage points", -100, 100, _PAIR, _YANG, False),
    Metric("worst_t", "connectivity", "inner curve point whose train error lies farthest from the "
           "mean of the ends", "", 0.25, 0.75, _PAIR, _YANG, False),
    Metric("linear_barrier", "connectivity", "largest rise of the train error on the straight line "
           "above the line between its ends", "percentage points", 0, 100, _PAIR,
           "Frankle et al., 2020", False),
    Metric("cka", "similarity", "linear centred kernel alignment of the logits on the test probe "
           "set", "", 0, 1, _PAIR, "Kornblith et al., 2019"),
    Metric("prediction_agreement", "similarity", "share of the test probe set to which both give "
           "the same class", "", 0, 1, _PAIR, "Fort et al., 2019"),
    Metric("weight_norm", "weights", "Euclidean norm of all parameters", "", 0, None, _MEMBER,
           "Neyshabur et al., 2015"),
    Metric("layer_rotation", "weights", "cosine distance of a layer's weights to initialisation",
           "", 0, 2, (*_MEMBER, "layer"), "Carbonnelle & De Vleeschouwer, 2019"),
)  # fmt: skip

METRICS: dict[str, Metric] = {metric.name: metric for metric in _ROWS}
"""Name → :class:`Metric`, in the order in which they are shown."""

GROUPS: tuple[str, ...] = tuple(dict.fromkeys(metric.group for metric in _ROWS))
"""Names of the groups, in order."""


def checked_groups(groups: Iterable[str]) -> tuple[str, ...]:
    """The groups asked for, in the order of the table.

    Raises:
        ConfigError: if one of them does not exist.

    Example:
        >>> checked_groups(["weights", "performance"])
        ('performance', 'weights')
    """
    asked = set(groups)
    unknown = sorted(asked.difference(GROUPS))
    if unknown:
        raise ConfigError(
            f"landscape.metrics: found {unknown[0]!r}, allowed {', '.join(GROUPS)}; "
            "correct the name"
        )
    return tuple(group for group in GROUPS if group in asked)
