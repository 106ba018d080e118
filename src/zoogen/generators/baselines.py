"""Generators without training: copies, noise, means and Gaussians, and fresh training itself.

What a learned generator has to beat. The first ones copy on purpose: an evaluation that does not
catch them is worth nothing.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Int

from zoogen.config import PER_MEMBER_PARAMETERS
from zoogen.errors import ConfigError
from zoogen.generators.generator import Effort, Fittable, Options, Request, Source, State
from zoogen.generators.population import member_ids
from zoogen.grid import Member
from zoogen.params import ParamSpec
from zoogen.symmetry import (
    Element,
    align_members,
    align_population,
    apply,
    random_element,
    weight_matching,
)
from zoogen.train import continue_training, initial_weights, recipe_of, training_data

Values = Float32[np.ndarray, "n p"]


# ------------------------------------------------------------------------------ what is kept
def keep_members(train: Fittable, _validation: Fittable, _options: Options, _: Effort) -> State:
    """The training members as they are."""
    return {"values": train.values}


def aligned(part: Fittable) -> Values:
    """Members aligned with the mean of an aligned few.

    All at once is slow where they are thousands; the mean of ``FEW`` aligned ones is a reference
    that is close to all.
    """
    spec, values = part.network.spec, part.values
    reference = align_population(spec, values[:FEW]).reference
    return align_members(spec, reference, values).values.astype(np.float32)


FEW = 64


# ------------------------------------------------------------------------------------- copies
def permuted_copies(source: Source, state: State, _options: Options, request: Request) -> Values:
    """Training members under random permutations."""
    rng = np.random.default_rng(request.seed)
    chosen = state["values"][rng.integers(len(state["values"]), size=request.count)]
    found = random_element(source.network.spec, request.seed, (request.count,))
    element = Element(found.permutations, {})
    return apply(source.network.spec, element, chosen).astype(np.float32)


def noisy_copies(source: Source, state: State, options: Options, request: Request) -> Values:
    """Training members with Gaussian noise, see :func:`noisy_members`."""
    spec, sigma = source.network.spec, options["sigma"]
    return noisy_members(spec, state["values"], sigma, request.count, request.seed)


def noisy_members(
    spec: ParamSpec, members: Values, sigma: float, count: int, seed: int = 0
) -> Values:
    """Random members with noise: the baseline that every generator must beat.

    The one definition of noise: of the generator, of the curve that others are judged by, and of
    the near copies by which a view of the test images is chosen.

    Args:
        spec: of the members.
        members: to choose from.
        sigma: see :func:`noised`.
        count: networks.
        seed: of the choice and the noise.

    Reference:
        Zeng et al., Generative modeling of weights: generalization or memorization?, 2025.
    """
    rows = np.random.default_rng(seed).integers(0, len(members), count)
    return noised(spec, members[rows], sigma, seed)


def noised(spec: ParamSpec, weights: Values, sigma: float, seed: int) -> Values:
    """Networks with Gaussian noise; ``sigma`` in units of the root mean square of each tensor.

    Each network's own tensors are the measure, so that what a size of noise is does not hang on
    the other members.

    Example:
        >>> from zoogen.params import Axis
        >>> spec = ParamSpec.build({"weight": (Axis(1000),)})
        >>> out = noised(spec, np.full((1, 1000), 2.0, np.float32), 0.5, 0)
        >>> round(float(out.std()), 1), out.dtype.name
        (1.0, 'float32')
    """
    rng, result = np.random.default_rng((seed, 1)), np.array(weights, np.float64)
    for parameter in spec.parameters:
        part = result[:, parameter.offset : parameter.offset + parameter.size]
        scale = np.sqrt(np.square(part).mean(axis=1, keepdims=True))
        part += sigma * scale * rng.normal(size=part.shape)
    return result.astype(np.float32)


# -------------------------------------------------------------------------------------- means
def means_of_members(source: Source, state: State, options: Options, request: Request) -> Values:
    """Means of ``members`` training members, the first of which is the reference of alignment."""
    rng = np.random.default_rng(request.seed)
    values, count = state["values"], options["members"]
    if not 2 <= count <= len(values):
        raise ConfigError(
            f"options.members: found {count}, expected 2 to {len(values)}, the number of training "
            "members"
        )
    chosen = np.stack([rng.choice(len(values), count, replace=False) for _ in range(request.count)])
    total = values[chosen[:, 0]].astype(np.float64)
    for column in chosen.T[1:]:
        total += _aligned_with(source.network.spec, values[chosen[:, 0]], values[column], options)
    return (total / count).astype(np.float32)


def _aligned_with(spec: ParamSpec, first: Values, second: Values, options: Options) -> Values:
    if not options["aligned"]:
        return second
    return apply(spec, weight_matching(spec, first, second).elements, second)


# ---------------------------------------------------------------------------------- Gaussians
def fit_gaussian(train: Fittable, _validation: Fittable, options: Options, _: Effort) -> State:
    """Mean and deviation of every parameter."""
    values = aligned(train) if options["aligned"] else train.values
    return {"mean": values.mean(axis=0), "deviation": values.std(axis=0)}


def sample_gaussian(_source: Source, state: State, _options: Options, request: Request) -> Values:
    """Independent normal parameters."""
    noise = np.random.default_rng(request.seed).standard_normal(
        (request.count, len(state["mean"])), np.float32
    )
    return state["mean"] + state["deviation"] * noise


class Principal(NamedTuple):
    """Principal components of aligned members.

    Attributes:
        mean: of the members.
        components: orthonormal rows.
        scores: of the members, divided by their deviations.
        deviations: of the scores.
    """

    mean: Float32[np.ndarray, " p"]
    components: Float32[np.ndarray, "k p"]
    scores: Float32[np.ndarray, "n k"]
    deviations: Float32[np.ndarray, " k"]


def principal(values: Values, components: int) -> Principal:
    """Principal components by a thin singular value decomposition.

    Raises:
        ConfigError: if there are not so many.
    """
    if not 1 <= components < min(values.shape):
        raise ConfigError(
            f"options.components: found {components}, expected 1 to {min(values.shape) - 1}, fewer "
            f"than the members that count ({len(values)}, of kde a `share`) and their parameters "
            f"({values.shape[1]})"
        )
    from sklearn.utils.extmath import randomized_svd

    mean = values.mean(axis=0)
    _, _, rows = randomized_svd(values - mean, components, random_state=0)
    scores = (values - mean) @ rows.T
    deviations = scores.std(axis=0)
    return Principal(mean, rows.astype(np.float32), scores / deviations, deviations)


def fit_pca(train: Fittable, _validation: Fittable, options: Options, _: Effort) -> State:
    """Principal components of the aligned training members."""
    return principal(aligned(train), options["components"])._asdict()


def decoded(state: State, scores: Float[np.ndarray, "n k"]) -> Values:
    """Weights from scores of unit deviation."""
    scaled = (scores * state["deviations"]).astype(np.float32)
    return state["mean"] + scaled @ state["components"]


def sample_pca(_source: Source, state: State, _options: Options, request: Request) -> Values:
    """A Gaussian in the space of the principal components."""
    rng = np.random.default_rng(request.seed)
    return decoded(state, rng.standard_normal((request.count, len(state["deviations"]))))


def fit_kde(train: Fittable, validation: Fittable, options: Options, effort: Effort) -> State:
    """Principal components of the members that fit their training images best."""
    if not 0 < options["share"] <= 1:
        raise ConfigError(f"options.share: found {options['share']:g}, expected above 0, at most 1")
    accuracy = train.population.table["train_accuracy"].to_numpy()
    best = np.argsort(-accuracy, kind="stable")[: max(2, round(options["share"] * len(accuracy)))]
    kept = Fittable(train.population.rows(best), train.conditions[best])
    return fit_pca(kept, validation, options, effort)


def sample_kde(_source: Source, state: State, _options: Options, request: Request) -> Values:
    """Scores of a training member and a Gaussian kernel of Scott's width around them."""
    rng = np.random.default_rng(request.seed)
    count, dimension = state["scores"].shape
    width = count ** (-1 / (dimension + 4))
    chosen = state["scores"][rng.integers(count, size=request.count)]
    return decoded(state, chosen + width * rng.standard_normal(chosen.shape))


# ------------------------------------------------------------------------------- fresh training
def nothing(_train: Fittable, _validation: Fittable, _options: Options, _: Effort) -> State:
    """Nothing is learned from the members but how they were trained."""
    return {}


def freshly_trained(source: Source, _state: State, _options: Options, request: Request) -> Values:
    """New members of the same recipe, with hyper-parameters drawn from those of the members.

    Raises:
        ConfigError: for members that fit one image each.
    """
    if source.network.config.fits_image:
        raise ConfigError("train: the members fit one image each, and there is no other one to fit")
    dataset = source.dataset()
    recipe = recipe_of(source.config, dataset)
    members = _new_members(source, request)
    start = initial_weights(recipe, members)
    data = training_data(dataset, recipe)
    return continue_training(recipe, data, members, start)[:, -1]


def _new_members(source: Source, request: Request) -> list[Member]:
    rng = np.random.default_rng(request.seed)
    rows: Int[np.ndarray, " n"] = rng.integers(len(source.values), size=request.count)
    found = source.values.iloc[rows][list(PER_MEMBER_PARAMETERS)].to_dict("records")
    names = member_ids("train", request.seed, request.count)
    return [
        Member(name, name, number, {str(key): float(value) for key, value in values.items()})
        for number, (name, values) in enumerate(zip(names, found, strict=True))
    ]
