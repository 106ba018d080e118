"""Generators that are trained: flows over principal components, and over weights themselves."""

from __future__ import annotations

from functools import lru_cache, partial

import jax
import numpy as np
from jaxtyping import Float, Float32

from zoogen.errors import ConfigError
from zoogen.generators.baselines import Values, aligned, decoded, principal
from zoogen.generators.fitting import restored
from zoogen.generators.flow import (
    Coupling,
    Data,
    Field,
    Seen,
    errors_of,
    fit_field,
    independent,
)
from zoogen.generators.generator import Effort, Fittable, Options, Request, Source, State
from zoogen.generators.integration import integrate
from zoogen.generators.path import Path, refuse_unknown_path
from zoogen.generators.sight import sight_of
from zoogen.generators.units import unit_field
from zoogen.generators.velocity import equivariant_field, token_field, vector_field
from zoogen.models import Standard, fit_standard, standardise
from zoogen.params import ParamSpec
from zoogen.symmetry import (
    align_members,
    apply,
    balanced,
    weight_matching,
    with_fixed_signs,
)

SIZES = "channels", "depth", "heads", "rank"  # options of a field over weights


# --------------------------------------------------------------------------------- components
def fit_pca_flow(train: Fittable, validation: Fittable, options: Options, effort: Effort) -> State:
    """A flow over the scores of the principal components of aligned members.

    What the components leave over is kept as independent noise of the same size, without which
    samples would be too short.
    """
    refuse_unknown_path(_path(options))
    values = aligned(train)
    space = principal(values, options["components"])
    state = space._asdict()
    reference = values.mean(axis=0)
    held = align_members(train.network.spec, reference, validation.values).values
    scores = ((held - space.mean) @ space.components.T / space.deviations).astype(np.float32)
    rest = values - decoded(state, space.scores)
    field = _score_field(len(space.deviations), train.conditions.shape[1], options)
    data = Data(space.scores.astype(np.float32), train.conditions)
    held_data = Data(scores, validation.conditions)
    fitted = fit_field(field, data, held_data, effort, sizes=train.sizes)
    return state | {
        "rest": rest.std(axis=0),
        "params": jax.tree.leaves(fitted.params),
        "losses": fitted.losses,
        "errors": errors_of(field, fitted.params, held_data),
    }


def sample_pca_flow(_source: Source, state: State, options: Options, request: Request) -> Values:
    """Scores from the flow, weights from the scores."""
    rng = np.random.default_rng(request.seed)
    size = len(state["deviations"])
    noise = rng.standard_normal((request.count, size), np.float32)
    field = _score_field(size, request.conditions.shape[1], options)
    scores = integrate(
        field,
        restored(field.init, state["params"]),
        noise,
        request.conditions,
        _path(options),
        request.seed,
        errors=state["errors"],
    )
    values = decoded(state, scores)
    return values + state["rest"] * rng.standard_normal(values.shape, np.float32)


def _score_field(size: int, conditions: int, options: Options) -> Field:
    return _vector_field(size, conditions, options["width"], options["depth"])


_vector_field = lru_cache(vector_field)  # one object, hence one compilation, per shape


# ------------------------------------------------------------------------------------- weights
def fit_flow(train: Fittable, validation: Fittable, options: Options, effort: Effort) -> State:
    """A flow over weights whose field commutes with all permutations of hidden units."""
    spec = train.network.spec
    forms = [_form(spec, part.values, options["canonical"]) for part in (train, validation)]
    standard = fit_standard(spec, forms[0])
    fitted_on, held = (
        Data(standardise(standard, values).astype(np.float32), part.conditions)
        for values, part in zip(forms, (train, validation), strict=True)
    )
    coupling = _coupling(spec, options["coupling"])
    _refuse_sizes(options)
    refuse_unknown_path(_path(options))
    seen = _seen(train.source, standard, options)
    if options["function_weight"] and min(effort.batch_size, len(train.values)) < 2:
        raise ConfigError(
            "training.batch_size: found 1, expected at least 2: options.function_weight measures "
            "errors by the noise of another member"
        )
    field = _weight_field(spec, train.conditions.shape[1], options, seen)
    fitted = fit_field(field, fitted_on, held, effort, coupling, seen, train.sizes)
    return {
        **standard._asdict(),
        "params": jax.tree.leaves(fitted.params),
        "losses": fitted.losses,
        "errors": _by_tensor(spec, errors_of(field, fitted.params, held, seen)),
    }


def _by_tensor(
    spec: ParamSpec, errors: Float[np.ndarray, "times p"]
) -> Float[np.ndarray, "times tensors"]:
    """Means over each tensor: units are exchangeable, so that they are equally uncertain."""
    ends = [parameter.offset for parameter in spec.parameters]
    sums = np.add.reduceat(errors, ends, axis=1)
    return sums / [parameter.size for parameter in spec.parameters]


def _form(spec: ParamSpec, values: Values, canonical: bool) -> Values:
    """Members of the same functions, without what scales and signs of units leave open."""
    return with_fixed_signs(spec, balanced(spec, values)) if canonical else values


def _seen(source: Source | None, standard: Standard, options: Options) -> Seen | None:
    """What members see; those that fit one image each have no images in common to learn from."""
    weight = options["function_weight"]
    if weight < 0:
        raise ConfigError(f"options.function_weight: found {weight:g}, expected at least 0")
    if not (weight or options["gradients"]):
        return None
    if source is None:
        raise ConfigError(
            "flow: options gradients and function_weight look at what members were trained on, "
            "found members without a source; set them to false and 0"
        )
    gradients = options["gradients"] and not source.network.config.fits_image
    return Seen(source.network, sight_of(source, standard), gradients, weight)


def _coupling(spec: ParamSpec, name: str) -> Coupling:
    couplings: dict[str, Coupling] = {
        "independent": independent, "assignment": partial(_matched, spec),
    }  # fmt: skip
    if name not in couplings:
        raise ConfigError(
            f"options.coupling: found {name!r}, expected one of {', '.join(couplings)}"
        )
    return couplings[name]


def _matched(
    spec: ParamSpec, noise: Float32[np.ndarray, "b p"], data: Float32[np.ndarray, "b p"]
) -> Float32[np.ndarray, "b p"]:
    """Noise with its units in the order that brings it nearest to the data.

    Units of noise are exchangeable, so it is still standard normal noise; but the lines from it
    to the data cross less.
    """
    return apply(spec, weight_matching(spec, data, noise).elements, noise)


def sample_flow(source: Source, state: State, options: Options, request: Request) -> Values:
    """Weights from noise."""
    spec = source.network.spec
    noise = np.random.default_rng(request.seed).standard_normal(
        (request.count, spec.size), np.float32
    )
    standard = Standard(state["mean"], state["deviation"])
    seen = _seen(source, standard, options) if options["gradients"] else None
    field = _weight_field(spec, request.conditions.shape[1], options, seen)
    params = restored(field.init, state["params"])
    sizes = [parameter.size for parameter in spec.parameters]
    found = integrate(
        field, params, noise, request.conditions, _path(options), request.seed, seen=seen,
        errors=np.repeat(state["errors"], sizes, axis=1),
    )  # fmt: skip
    return found * standard.deviation + standard.mean


def _refuse_sizes(options: Options) -> None:
    for name in SIZES:
        if options[name] < 1:
            raise ConfigError(f"options.{name}: found {options[name]}, expected at least 1")


def _weight_field(spec: ParamSpec, conditions: int, options: Options, seen: Seen | None) -> Field:
    channels, depth, heads, rank = (options[name] for name in SIZES)
    gradients = seen is not None and seen.gradients
    if options["field"] == "units":
        return _unit_field(spec, conditions, channels, depth, heads, rank, gradients)
    if options["field"] == "layers":
        return _equivariant_field(spec, conditions, channels, depth, rank, gradients)
    if options["field"] == "tokens":
        return _token_field(spec, conditions, channels, depth, heads, gradients)
    raise ConfigError(
        f"options.field: found {options['field']!r}, expected 'units', 'layers' or 'tokens'"
    )


_unit_field = lru_cache(unit_field)
_equivariant_field = lru_cache(equivariant_field)
_token_field = lru_cache(token_field)


def _path(options: Options) -> Path:
    return Path(*(options[name] for name in Path._fields))
