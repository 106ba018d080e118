"""Landscape: what lies around trained members, measured per cohort with error bars."""

from typing import TYPE_CHECKING

from zoogen.lazy import lazily

if TYPE_CHECKING:
    from zoogen.landscape.connectivity import (
        CURVE_POINTS,
        farthest_point,
        linear_barrier,
        mode_connectivity,
        train_curve,
    )
    from zoogen.landscape.curvature import hessian_trace, lanczos, top_eigenvalue
    from zoogen.landscape.measure import Measurement, measure_cohort, seed_pairs
    from zoogen.landscape.metrics import GROUPS, METRICS, NOTES, WITHOUT_ERROR, Metric
    from zoogen.landscape.performance import cross_entropy, error_percent
    from zoogen.landscape.representations import debiased_cka
    from zoogen.landscape.similarity import (
        linear_cka,
        prediction_agreement,
        prediction_divergence,
        rank_correlation,
    )
    from zoogen.landscape.weights import cosine_distance, layer_rotation, weight_norm
else:
    __getattr__, __dir__ = lazily(__name__, __file__)

__all__ = [
    "CURVE_POINTS",
    "GROUPS",
    "METRICS",
    "NOTES",
    "WITHOUT_ERROR",
    "Measurement",
    "Metric",
    "cosine_distance",
    "cross_entropy",
    "debiased_cka",
    "error_percent",
    "farthest_point",
    "hessian_trace",
    "lanczos",
    "layer_rotation",
    "linear_barrier",
    "linear_cka",
    "measure_cohort",
    "mode_connectivity",
    "prediction_agreement",
    "prediction_divergence",
    "rank_correlation",
    "seed_pairs",
    "top_eigenvalue",
    "train_curve",
    "weight_norm",
]
