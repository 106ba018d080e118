"""The table of metrics: what a number is, its range, its error, its cost and who defined it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from zoogen.config import FIT_GROUPS, NetworkConfig
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
        error: the metric that holds its standard error (of an eigenvalue, a bound), or one of
            ``WITHOUT_ERROR``.
        cost: gradient evaluations for one member (or pair) at one snapshot, as a formula of the
            settings of ``[landscape]`` and of ``parameters``, ``classes``, training ``images`` and
            training ``probe`` images; or ``with NAME``: whoever takes that metric has this one,
            too. A Hessian product counts as two.
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
    error: str
    cost: str = "0"
    permutation_symmetric: bool = True

    @property
    def is_error(self) -> bool:
        """Whether it is the error of another metric."""
        return self.error == "is error"


WITHOUT_ERROR = {
    "on probe": "exact on the probe set, and no mean over it",
    "of weights": "exact function of the weights",
    "is error": "an error itself",
    "one start": "from one start vector, which shows no spread",
    "biased": "biased upwards; cka_debiased has one",
}
"""Why a metric has no standard error, in words."""


def _estimate(
    name: str,
    group: str,
    definition: str,
    unit: str,
    low: float | None,
    high: float | None,
    axes: tuple[str, ...],
    reference: str,
    cost: str = "0",
    over: str = "over examples",
    permutation_symmetric: bool = True,
) -> list[Metric]:
    """A metric and its standard error, which costs nothing beyond it."""
    stderr = f"{name}_stderr"
    shared = cost if cost == "0" or cost.startswith("with") else f"with {name}"
    return [
        Metric(name, group, definition, unit, low, high, axes, reference, stderr, cost,
               permutation_symmetric),
        Metric(stderr, group, f"standard error of {name} {over}", unit, 0, None, axes, reference,
               "is error", shared, permutation_symmetric),
    ]  # fmt: skip


_MEMBER = ("member", "snapshot")
_PAIR = ("pair", "snapshot")
_CURVE = (*_PAIR, "t")
_LAYER = (*_MEMBER, "layer")
_HIDDEN = (*_MEMBER, "hidden")
_PAIR_HIDDEN = (*_PAIR, "hidden")
_GARIPOV = "Garipov et al., 2018"
_HE = "He et al., 2021"
_MCCANDLISH = "McCandlish et al., 2018"
_NGUYEN = "Nguyen et al., 2021"
_PAPYAN = "Papyan et al., 2020"
_YANG = "Yang et al., 2021"

_LANCZOS = "with hessian_top"
_CURVE_COST = "curve_epochs * (images // min(curve_batch_size, images))"
_ON_CURVE = "over examples, given the curve"
_JACKKNIFE = "over examples (jackknife over blocks)"
_BATCHES = "over batches (jackknife)"
_AT_RISE = "over examples, given where it rises most"


def _barriers(suffix: str, line: str, reference: str, symmetric: bool) -> list[Metric]:
    """Rises of four quantities on one line between members."""
    rises = [
        _estimate(f"barrier_{name}{suffix}", "alignment", f"largest rise of the {words} on the "
                  f"{line}", unit, 0, high, _PAIR, reference, over=_AT_RISE,
                  permutation_symmetric=symmetric)
        for name, words, unit, high in (
            ("train_error", "train error", "percentage points", 100),
            ("train_loss", "train loss", "nats", None),
            ("test_error", "test error", "percentage points", 100),
            ("test_loss", "test loss", "nats", None),
        )
    ]  # fmt: skip
    return [metric for rise in rises for metric in rise]


_ROWS = (
    *_estimate("train_loss", "performance", "mean cross-entropy on the training probe set, labels "
               "as trained on", "nats", 0, None, _MEMBER, "Bishop, 2006"),
    *_estimate("train_error", "performance", "misclassified share of the training probe set, "
               "labels as trained on", "%", 0, 100, _MEMBER, "Bishop, 2006"),
    *_estimate("train_accuracy", "performance", "correctly classified share of the training probe "
               "set, labels as trained on", "", 0, 1, _MEMBER, "Bishop, 2006"),
    *_estimate("test_loss", "performance", "mean cross-entropy on the test probe set", "nats", 0,
               None, _MEMBER, "Bishop, 2006"),
    *_estimate("test_error", "performance", "misclassified share of the test probe set", "%", 0,
               100, _MEMBER, "Bishop, 2006"),
    *_estimate("test_accuracy", "performance", "correctly classified share of the test probe set",
               "", 0, 1, _MEMBER, "Bishop, 2006"),
    *_estimate("generalisation_gap", "performance", "train accuracy minus test accuracy", "", -1, 1,
               _MEMBER, "Zhang et al., 2017"),
    *_estimate("hessian_trace", "curvature", "trace of the Hessian of the training loss, mean of "
               "v'Hv over Rademacher probes", "nats", None, None, _MEMBER, "Hutchinson, 1989",
               "2 * hessian_probes", "over its probes"),
    Metric("hessian_top", "curvature", "largest (algebraic) eigenvalue of the Hessian of the "
           "training loss, by Lanczos", "nats", None, None, _MEMBER, "Lanczos, 1950",
           "hessian_top_residual", "2 * min(lanczos_steps, parameters)"),
    Metric("hessian_top_residual", "curvature", "norm of Hu - hessian_top u for its unit vector u: "
           "an eigenvalue lies no farther off", "nats", 0, None, _MEMBER, "Parlett, 1998",
           "is error", _LANCZOS),
    Metric("hessian_eigenvalues", "curvature", "largest eigenvalues of the Hessian of the training "
           "loss, descending, by Lanczos", "nats", None, None, (*_MEMBER, "rank"), "Lanczos, 1950",
           "hessian_eigenvalues_residual", _LANCZOS),
    Metric("hessian_eigenvalues_residual", "curvature", "residual norms of their vectors", "nats",
           0, None, (*_MEMBER, "rank"), "Parlett, 1998", "is error", _LANCZOS),
    Metric("hessian_lowest", "curvature", "smallest (algebraic) eigenvalue; below 0 negative "
           "curvature", "nats", None, None, _MEMBER, "Lanczos, 1950", "hessian_lowest_residual",
           _LANCZOS),
    Metric("hessian_lowest_residual", "curvature", "residual norm of its vector", "nats", 0, None,
           _MEMBER, "Parlett, 1998", "is error", _LANCZOS),
    Metric("spectral_nodes", "curvature", "quadrature nodes of the Hessian's spectral density",
           "nats", None, None, (*_MEMBER, "node"), "Ubaru et al., 2017", "one start", _LANCZOS),
    Metric("spectral_weights", "curvature", "their weights, of sum 1", "", 0, 1, (*_MEMBER, "node"),
           "Ubaru et al., 2017", "one start", _LANCZOS),
    *_estimate("curve_train_error", "connectivity", "train error along the trained Bézier curve",
               "%", 0, 100, _CURVE, _GARIPOV, "with mode_connectivity", _ON_CURVE,
               permutation_symmetric=False),
    *_estimate("curve_train_loss", "connectivity", "train loss along the trained Bézier curve",
               "nats", 0, None, _CURVE, _GARIPOV, "with mode_connectivity", _ON_CURVE,
               permutation_symmetric=False),
    *_estimate("mode_connectivity", "connectivity", "mean train error of the ends minus train "
               "error at worst_t; below 0 a barrier", "percentage points", -100, 100, _PAIR, _YANG,
               _CURVE_COST, _ON_CURVE + " and worst_t", permutation_symmetric=False),
    Metric("worst_t", "connectivity", "inner curve point whose train error lies farthest from the "
           "mean of the ends", "", 0.25, 0.75, _PAIR, _YANG, "on probe", "with mode_connectivity",
           permutation_symmetric=False),
    *_estimate("linear_barrier", "connectivity", "largest rise of the train error on the straight "
               "line above the line between its ends", "percentage points", 0, 100, _PAIR,
               "Frankle et al., 2020", over=_AT_RISE, permutation_symmetric=False),
    Metric("weight_distance", "alignment", "Euclidean distance of the weights of two members", "",
           0, None, _PAIR, "Fort et al., 2019", "of weights", permutation_symmetric=False),
    Metric("weight_distance_aligned", "alignment", "the same after matching the units of the "
           "second member", "", 0, None, _PAIR, "Ainsworth et al., 2023", "of weights"),
    *_barriers("", "straight line between two members", "Frankle et al., 2020", False),
    *_barriers("_aligned", "same line after matching the units of the second member",
               "Ainsworth et al., 2023", True),
    Metric("cka", "similarity", "linear centred kernel alignment of the logits on the test probe "
           "set", "", 0, 1, _PAIR, "Kornblith et al., 2019", "biased"),
    *_estimate("prediction_agreement", "similarity", "share of the test probe set to which both "
               "give the same class", "", 0, 1, _PAIR, "Fort et al., 2019"),
    *_estimate("prediction_divergence", "similarity", "Jensen-Shannon divergence of the class "
               "probabilities on the test probe set", "nats", 0, 0.6932, _PAIR, "Lin, 1991"),
    *_estimate("learning_order", "similarity", "rank correlation of the shares of snapshots so far "
               "at which test probe examples were right", "", -1, 1, _PAIR, "Hacohen et al., 2020"),
    *_estimate("cka_debiased", "representations", "cka from unbiased estimates: 0 on average for "
               "independent members", "", -1, 1, _PAIR, _NGUYEN, over=_JACKKNIFE),
    *_estimate("layer_cka_debiased", "representations", "the same of a layer's activations; of "
               "maps, every position of a unit is a feature", "", -1, 1, _PAIR_HIDDEN, _NGUYEN,
               over=_JACKKNIFE),
    Metric("weight_norm", "weights", "Euclidean norm of all parameters", "", 0, None, _MEMBER,
           "Neyshabur et al., 2015", "of weights"),
    Metric("layer_rotation", "weights", "cosine distance of a layer's weights to initialisation",
           "", 0, 2, (*_MEMBER, "layer"), "Carbonnelle & De Vleeschouwer, 2019", "of weights"),
    *_estimate("fisher_trace", "gradients", "trace of the Fisher matrix, which is the Gauss-Newton "
               "matrix", "nats", 0, None, _MEMBER, "Martens, 2020",
               "classes * min(fisher_examples, probe)"),
    *_estimate("gradient_noise_scale", "gradients", "batch size at which gradient noise equals the "
               "signal", "examples", None, None, _MEMBER, _MCCANDLISH, "max(3, "
               "min(gradient_batches, hessian_examples, probe))", _BATCHES),
    *_estimate("gradient_noise", "gradients", "trace of the covariance of per-example gradients, "
               "unbiased", "nats²", None, None, _MEMBER, _MCCANDLISH, "with gradient_noise_scale",
               _BATCHES),
    *_estimate("gradient_signal", "gradients", "squared norm of the true gradient, unbiased",
               "nats²", None, None, _MEMBER, _MCCANDLISH, "with gradient_noise_scale", _BATCHES),
    Metric("ascent_sharpness", "sharpness", "rise of the training loss after a normalised ascent "
           "step", "nats", None, None, _MEMBER, "Foret et al., 2021", "on probe", "1"),
    Metric("adaptive_sharpness", "sharpness", "the same with steps relative to the weights; blind "
           "to rescaling", "nats", None, None, _MEMBER, "Kwon et al., 2021", "on probe", "1"),
    Metric("path_norm", "capacity", "sum over all paths of the product of absolute weights", "", 0,
           None, _MEMBER, "Gonon et al., 2023", "of weights"),
    Metric("spectral_norm", "capacity", "largest singular value of a layer's matrix", "", 0, None,
           _LAYER, "Bartlett et al., 2017", "of weights"),
    Metric("spectral_product", "capacity", "product of the layers' spectral norms", "", 0, None,
           _MEMBER, "Bartlett et al., 2017", "of weights"),
    Metric("stable_rank", "capacity", "squared Frobenius norm over squared spectral norm", "", 1,
           None, _LAYER, "Rudelson & Vershynin, 2007", "of weights"),
    Metric("effective_rank", "capacity", "exponential of the entropy of the normalised singular "
           "values", "", 1, None, _LAYER, "Roy & Vetterli, 2007", "of weights"),
    *_estimate("tail_exponent", "capacity", "power-law exponent of the eigenvalue tail of a layer; "
               "missing below 50 eigenvalues", "", 1, None, _LAYER, "Martin & Mahoney, 2021",
               over="given where the tail begins"),
    Metric("collapse_variability", "collapse", "NC1: scatter within classes relative to that "
           "between", "", 0, None, _MEMBER, _PAPYAN, "on probe"),
    Metric("collapse_norm_spread", "collapse", "NC2: variation of the lengths of centred class "
           "means", "", 0, None, _MEMBER, _PAPYAN, "on probe"),
    Metric("collapse_angle_spread", "collapse", "NC2: standard deviation of the cosines between "
           "class means", "", 0, 1, _MEMBER, _PAPYAN, "on probe"),
    Metric("collapse_angle_excess", "collapse", "NC2: mean distance of these cosines from the "
           "widest possible", "", 0, 2, _MEMBER, _PAPYAN, "on probe"),
    Metric("collapse_duality", "collapse", "NC3: squared distance of normalised classifier and "
           "class means", "", 0, 4, _MEMBER, _PAPYAN, "on probe"),
    *_estimate("collapse_disagreement", "collapse", "NC4: share that the nearest class mean "
               "classifies otherwise", "", 0, 1, _MEMBER, _PAPYAN),
    *_estimate("activation_sparsity", "activations", "share of a layer's activations that are off",
               "", 0, 1, _HIDDEN, "Glorot et al., 2011"),
    Metric("dead_units", "activations", "share of a layer's units that are off on the whole "
           "training probe set", "", 0, 1, _HIDDEN, "Lu et al., 2020", "on probe"),
    Metric("code_unique", "activations", "share of training probe inputs with an activation code "
           "of their own", "", 0, 1, _MEMBER, _HE, "on probe"),
    Metric("code_redundancy", "activations", "one minus different codes over inputs", "", 0, 1,
           _MEMBER, _HE, "on probe"),
    *_estimate("code_knn_accuracy", "activations", "test accuracy of 5 nearest neighbours on codes",
               "", 0, 1, _MEMBER, _HE),
    Metric("expressive_regime", "activations", "0 under-, 1 critically, 2 sufficiently expressive",
           "", 0, 2, _MEMBER, _HE, "on probe"),
    *_estimate("linear_regions", "complexity", "mean number of linear regions on lines between "
               "probe inputs (lower bound)", "", 1, None, _MEMBER, "Novak et al., 2018",
               over="over lines"),
    *_estimate("mean_frequency", "complexity", "amplitude-weighted mean frequency of the logits on "
               "circles of random inputs", "cycles", 0, None, _MEMBER, "Teney et al., 2024",
               over="over circles"),
    Metric("calibration_error", "calibration", "expected gap of confidence and accuracy on the "
           "test probe set, 15 bins", "", 0, 1, _MEMBER, "Guo et al., 2017", "on probe"),
    Metric("margin", "calibration", "quantiles of the margins on the training probe set", "", None,
           None, (*_MEMBER, "quantile"), "Jiang et al., 2019", "on probe"),
    Metric("normalised_margin", "calibration", "margin over the product of spectral norms", "",
           None, None, (*_MEMBER, "quantile"), "Bartlett et al., 2017", "on probe"),
    *_estimate("noise_memorised", "calibration", "share of wrongly labelled training examples "
               "given the wrong label", "", 0, 1, _MEMBER, "Arpit et al., 2017"),
    *_estimate("noise_recovered", "calibration", "share of wrongly labelled training examples "
               "given the clean label", "", 0, 1, _MEMBER, "Liu et al., 2020"),
    *_estimate("mse", "reconstruction", "squared error of the image that a member shows, black 0 "
               "and white 1", "", 0, None, _MEMBER, "Sitzmann et al., 2020", over="over pixels"),
    *_estimate("psnr", "reconstruction", "peak signal-to-noise ratio of that image, −10 log10 of "
               "its mse", "dB", None, None, _MEMBER, "Sitzmann et al., 2020", over="over pixels"),
)  # fmt: skip

METRICS: dict[str, Metric] = {metric.name: metric for metric in _ROWS}
"""Name → :class:`Metric`, in the order in which they are shown."""

GROUPS: tuple[str, ...] = tuple(dict.fromkeys(metric.group for metric in _ROWS))
"""Names of the groups, in order."""


NOTES: tuple[str, ...] = (
    "Standard errors take the examples of a probe set as a sample of all there are; the members, "
    "curves and probes are given. Errors of curves, barriers and agreement come from what "
    "happens to each example at both places, not from two separate errors.",
    "`cka` is what phase rules use. With few examples for the features it is biased upwards, "
    "`cka_debiased` rests on unbiased estimates. Of maps, every position of a unit is a feature of "
    "its own (Kornblith et al., 2019): images are independent examples, positions of one image are "
    "not.",
    "`learning_order` at a snapshot knows that snapshot and those before it, so it is coarse at "
    "first: at initialisation it compares which examples are right by chance.",
    "`path_norm` counts a pooled mean as a weight, a maximum as a sum, a residual as a weight "
    "of 1. Through norms and attention weights paths do not add up: NaN for `resnet` and `vit`.",
    "Lanczos and the Hutchinson trace are our own code. matfree 0.6.3 equals them to rounding on "
    "spectra without repeats, leaves neighbours alone under `vmap` and `lax.map`, and takes 0.7 "
    "to 1.7 of the time. But where the Krylov space is exhausted before the steps are, it goes on "
    "in rounding: with two distinct eigenvalues its top one is off by 7.9 times the largest, with "
    "one by 180 times, and a Hessian of zeros gives NaN; ours stays within 3e-7. For a member "
    "whose units are all dead its lowest eigenvalue is off by 12 % of the largest "
    "(`benchmarks/matfree_comparison.py`).",
)
"""How the numbers are meant, for the page of metrics."""


def require_groups(network: NetworkConfig, groups: Iterable[str]) -> None:
    """Refuse groups that members of a family can't have.

    Raises:
        ConfigError: naming the first of them.
    """
    fits = network.fits_image
    wrong = [name for name in groups if (name not in FIT_GROUPS if fits else name == FIT_GROUPS[0])]
    if wrong:
        needs = f"classes; they have {', '.join(FIT_GROUPS)}" if fits else "an image that each fits"
        raise ConfigError(
            f"landscape.metrics: found {wrong[0]!r}, but members of the family "
            f"{network.family!r} can't have it: it needs {needs}"
        )


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
