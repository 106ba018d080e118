"""What the logits of one member say beyond their loss: confidence, margins, noisy labels."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from zoogen.landscape.stderr import share_stderr

MARGIN_QUANTILES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
"""The axis ``quantile`` of margins."""


def calibration_error(
    logits: Float[Array, "n k"], labels: Int[Array, " n"], bins: int = 15
) -> Float[Array, ""]:
    """Expected gap between confidence and accuracy, in [0, 1]; NaN where a logit is not finite.

    Examples are sorted by confidence into bins of equal width; the gaps between mean confidence
    and accuracy are averaged, weighted by examples. Biased upwards where bins hold few.

    Args:
        logits: unnormalised log-probabilities.
        labels: classes.
        bins: their number.

    Example:
        >>> round(float(calibration_error(jnp.zeros((4, 2)), jnp.array([0, 0, 0, 1]))), 4)
        0.25

    Reference:
        Guo, Pleiss, Sun and Weinberger, On calibration of modern neural networks, 2017.
    """
    confidence = jnp.max(jax.nn.softmax(logits), axis=1)
    right = (jnp.argmax(logits, axis=1) == labels).astype(jnp.float32)
    place = jnp.clip(jnp.ceil(confidence * bins) - 1, 0, bins - 1)
    inside = place[:, None] == jnp.arange(bins)
    gaps = jnp.sum(jnp.where(inside, (right - confidence)[:, None], 0), axis=0)
    error = jnp.sum(jnp.abs(gaps)) / labels.shape[0]
    return jnp.where(jnp.all(jnp.isfinite(logits)), error, jnp.nan)


def margins(logits: Float[Array, "n k"], labels: Int[Array, " n"]) -> Float[Array, " n"]:
    """Logit of the label minus the largest other logit; below 0 where misclassified.

    Example:
        >>> margins(jnp.array([[3.0, 1.0, 0.0], [0.0, 2.0, 5.0]]), jnp.array([0, 1])).tolist()
        [2.0, -3.0]

    Reference:
        Bartlett, Foster and Telgarsky, Spectrally-normalized margin bounds for neural networks,
        2017.
    """
    chosen = labels[:, None] == jnp.arange(logits.shape[1])
    own = jnp.sum(jnp.where(chosen, logits, 0), axis=1)
    return own - jnp.max(jnp.where(chosen, -jnp.inf, logits), axis=1)


def margin_quantiles(margins: Float[np.ndarray, "*m n"]) -> Float[np.ndarray, "*m q"]:
    """Quantiles of margins at ``MARGIN_QUANTILES``, on the host; NaN where one is NaN.

    Divided by the product of the layers' spectral norms they are normalised: rescaling the units
    of a relu network then changes neither function nor margin.

    Example:
        >>> margin_quantiles(np.arange(11.0)).tolist()
        [0.0, 1.0, 2.5, 5.0, 7.5, 9.0, 10.0]

    Reference:
        Jiang, Krishnan, Mobahi and Bengio, Predicting the generalization gap in deep networks
        with margin distributions, 2019.
    """
    return np.moveaxis(np.quantile(margins, MARGIN_QUANTILES, axis=-1), 0, -1)


class NoisyLabels(NamedTuple):
    """What becomes of training examples whose label is wrong; all NaN where there are none.

    Attributes:
        memorised: share that is given the wrong label, as trained on, in [0, 1].
        recovered: share that is given the clean label nevertheless, in [0, 1].
        memorised_stderr: standard error over these examples.
        recovered_stderr: likewise.
    """

    memorised: Float[Array, ""]
    recovered: Float[Array, ""]
    memorised_stderr: Float[Array, ""]
    recovered_stderr: Float[Array, ""]


def noisy_label_scores(
    logits: Float[Array, "n k"], noisy: Int[Array, " n"], clean: Int[Array, " n"]
) -> NoisyLabels:
    """Early learning against memorisation: accuracy on wrongly labelled training examples.

    Over training, early learning raises ``recovered``; memorisation then trades it for
    ``memorised``.

    Args:
        logits: on training examples.
        noisy: labels as trained on.
        clean: labels without noise.

    Returns:
        Shares among the examples where the two labels differ; NaN where a logit is not finite.

    Example:
        >>> scores = noisy_label_scores(jnp.eye(3), jnp.array([0, 2, 2]), jnp.array([0, 1, 0]))
        >>> float(scores.memorised), float(scores.recovered)
        (0.5, 0.5)

    Reference:
        Arpit et al., A closer look at memorization in deep networks, 2017; Liu, Niles-Weed,
        Razavian and Fernandez-Granda, Early-learning regularization prevents memorization of
        noisy labels, 2020.
    """
    given = jnp.argmax(logits, axis=1)
    wrong = (noisy != clean) & jnp.all(jnp.isfinite(logits))

    count = jnp.sum(wrong, dtype=jnp.float32)
    shares = [
        jnp.sum(wrong & (given == labels), dtype=jnp.float32) / count  # 0 / 0 is NaN
        for labels in (noisy, clean)
    ]
    return NoisyLabels(*shares, *(share_stderr(share, count) for share in shares))
