"""Compaction of members: what k numbers keep of them, in four ways."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from zoogen.data import noisy_labels, normalise
from zoogen.errors import ConfigError
from zoogen.generators import decode, encode, encode_by_task
from zoogen.keys import identity_words
from zoogen.params import ParamSpec
from zoogen.studies.estimates import Estimate, compare_members
from zoogen.studies.trainees import Trainees
from zoogen.symmetry import align_members, align_population

NUMBERS = (16, 64, 256, 1024)
PER_CELL = 3  # members that are rebuilt: those trained by their task take a training each
POPULATION = 2400  # most other members that principal components are taken from, by halves
FEW = 64  # members that the reference of alignment is made of

Values = Float[np.ndarray, "m p"]


def compact(members: Trainees) -> Iterator[Estimate]:
    """Rebuild members from k numbers each, against the members as they are.

    A pseudo-random basis, whose coefficients are met by least squares or trained on the task with
    the member's own number of steps and images; the largest weights, the rest zero, whose places
    are not counted among the numbers; and principal components of the other members of the cohort,
    aligned, which have to be kept besides. Where there are fewer components or parameters, all of
    them count.

    Reference:
        Nooralinejad et al., PRANC: pseudo random networks for compacting deep models, 2023.

    Raises:
        ConfigError: if members have batch norms, whose statistics are no sums.
    """
    subjects, spec = members.subjects, members.recipe.net.spec
    if spec.statistics:
        raise ConfigError(
            "study compaction: batch norms need statistics of images, which no basis holds; take "
            "members with network.norm = 'layer', or of another family"
        )
    last = subjects.weights(subjects.snapshots - 1)
    chosen = _chosen(members)
    before = np.full(len(last), np.nan)
    before[chosen] = subjects.accuracy(last[chosen])
    components = _components(spec, last, chosen)
    ways: dict[str, Callable[[int], Values]] = {
        "least squares": lambda k: decode(spec, encode(spec, last[chosen], k)),
        "trained": lambda k: _trained(members, chosen, k),
        "largest weights": lambda k: largest(last[chosen], k),
        "components": components,
    }
    for way, rebuilt in ways.items():
        for numbers in NUMBERS:
            found = np.full(len(last), np.nan)
            found[chosen] = subjects.accuracy(rebuilt(min(numbers, spec.size)))
            yield from compare_members(subjects.by_cell(), numbers, found, before, way)
            members.on_members(len(last) / len(ways) / len(NUMBERS))


def largest(values: Values, numbers: int) -> Values:
    """Weights with zeros in place of all but the largest in magnitude.

    Example:
        >>> largest(np.array([[3.0, -1.0, -4.0]]), 2).tolist()
        [[3.0, 0.0, -4.0]]
    """
    order = np.argsort(-np.abs(values), axis=1, kind="stable")[:, :numbers]
    kept = np.zeros_like(values)
    np.put_along_axis(kept, order, np.take_along_axis(values, order, axis=1), axis=1)
    return kept


def _chosen(members: Trainees) -> Int[np.ndarray, " n"]:
    """The first few members of every cell."""
    places = [places[:PER_CELL] for _, places in members.subjects.by_cell()]
    return np.sort(np.concatenate(places))


def _trained(members: Trainees, chosen: Int[np.ndarray, " n"], numbers: int) -> Values:
    """Networks of the members' cells, trained in the subspace of a basis each."""
    recipe, data = members.recipe, members.data
    images = normalise(jnp.asarray(data.images), data.mean, data.std)
    values = np.empty((len(chosen), recipe.net.spec.size), np.float32)
    rates = np.array([members.members[place].values["data.label_noise"] for place in chosen])
    for rate in np.unique(rates):
        labels = noisy_labels(data.labels, float(rate), recipe.classes, recipe.noise_seed)
        rows = np.flatnonzero(rates == rate)
        seeds = [int(identity_words(members.members[chosen[row]].id)[0]) for row in rows]
        code = encode_by_task(
            recipe.net, images, labels, numbers, seeds,
            recipe.timeline.total_steps, recipe.train.batch_size,
        )  # fmt: skip
        values[rows] = decode(recipe.net.spec, code)
    return values


def _components(
    spec: ParamSpec, values: Values, chosen: Int[np.ndarray, " n"]
) -> Callable[[int], Values]:
    """``k → chosen members``, aligned, from the mean and k components of members not among them.

    Members fall into two halves; those of one are rebuilt from the components of the other.
    """
    others = np.setdiff1d(np.arange(len(values)), chosen)[:POPULATION]
    rows = np.concatenate([chosen, others])
    reference = align_population(spec, values[rows[:FEW]]).reference
    aligned = align_members(spec, reference, values[rows]).values
    spaces = [_space(aligned[1 - half :: 2]) for half in range(2)]

    def rebuilt(numbers: int) -> Values:
        found = np.empty((len(chosen), spec.size), np.float32)
        for half, (mean, directions) in enumerate(spaces):
            own, kept = aligned[half : len(chosen) : 2], directions[:numbers]
            found[half::2] = mean + (own - mean) @ kept.T @ kept
        return found

    return rebuilt


def _space(values: Values) -> tuple[Float[np.ndarray, " p"], Float[np.ndarray, "k p"]]:
    """Mean and principal directions; NaN where there is no member."""
    if not len(values):
        return np.full(values.shape[1], np.nan), np.empty((0, values.shape[1]))
    mean = values.mean(axis=0)
    _, _, directions = np.linalg.svd(values - mean, full_matrices=False)
    return mean, directions[: len(values) - 1]
