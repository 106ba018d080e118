"""A flow over weights, by a field that commutes with all permutations of hidden units."""

from __future__ import annotations

from functools import lru_cache, partial
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Float32

from zoogen.errors import ConfigError
from zoogen.generators.baselines import Values
from zoogen.generators.dataset_encoder import dataset_encoder
from zoogen.generators.fitting import restored
from zoogen.generators.flow import (
    Coupling,
    Data,
    Field,
    Seen,
    Teller,
    errors_of,
    fit_field,
    independent,
    initial,
)
from zoogen.generators.generator import Effort, Fittable, Options, Request, Source, State
from zoogen.generators.integration import integrate
from zoogen.generators.path import path_of, refuse_unknown_path
from zoogen.generators.sight import sight_of
from zoogen.generators.trained_on import TrainedOn, embedded, told_of, trained_on
from zoogen.generators.units import unit_field
from zoogen.generators.velocity import equivariant_field, token_field
from zoogen.models import Standard, fit_standard, standardise
from zoogen.params import ParamSpec
from zoogen.symmetry import apply, balanced, weight_matching, with_fixed_signs

SIZES = "channels", "depth", "heads", "rank"  # options of a field over weights


# ---------------------------------------------------------------------------------------- fit
def fit(train: Fittable, validation: Fittable, options: Options, effort: Effort) -> State:
    """Fit the field, and the encoder of data sets where it is told them.

    Raises:
        ConfigError: for an option out of its range, or one that members do not allow.
    """
    _refuse(options, min(effort.batch_size, len(train.values)))
    spec, source = train.network.spec, train.source
    told = trained_on(train, validation, options["embedding"] > 0)
    forms = [_form(spec, part.values, options["canonical"]) for part in (train, validation)]
    standard = fit_standard(spec, forms[0])
    fitted_on, held = (
        Data(standardise(standard, values).astype(np.float32), part.conditions, of, told.images)
        for values, part, of in zip(forms, (train, validation), told.of, strict=True)
    )
    seen = _seen(source, standard, options)
    field = _field(spec, train.conditions.shape[1] + options["embedding"], options, seen)
    teller = _teller(told, options)
    fitted = fit_field(
        field, fitted_on, held, effort, _coupling(spec, options["coupling"]), seen, train.sizes,
        teller,
    )  # fmt: skip
    kept: State = {}
    if teller is not None:
        kept = told.state
        held = held._replace(conditions=_with_embeddings(teller, fitted.params, held))
    return {
        **standard._asdict(),
        **kept,
        "params": jax.tree.leaves(fitted.params),
        "losses": fitted.losses,
        "errors": _by_tensor(spec, errors_of(field, fitted.params["field"], held, seen)),
    }


def _teller(told: TrainedOn, options: Options) -> Teller | None:
    if told.examples is None:
        return None
    encoder = _dataset_encoder(told.images.shape[1], options["embedding"], options["inducing"])
    return Teller(encoder, told.examples, options["shots"])


def _with_embeddings(
    teller: Teller, params: dict[str, Any], data: Data
) -> Float32[np.ndarray, "n e"]:
    rng = np.random.default_rng(0)
    found = embedded(teller.encoder, params["encoder"], teller.examples, data.of, teller.shots, rng)
    return np.concatenate([data.conditions, found], axis=1)


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


# ------------------------------------------------------------------------------------- sample
def sample(source: Source, state: State, options: Options, request: Request) -> Values:
    """Weights from noise.

    Raises:
        ConfigError: for a data set with other images than those that the run was told of.
    """
    spec = source.network.spec
    noise = np.random.default_rng(request.seed).standard_normal(
        (request.count, spec.size), np.float32
    )
    standard = Standard(state["mean"], state["deviation"])
    seen = _seen(source, standard, options) if options["gradients"] else None
    field = _field(spec, request.conditions.shape[1] + options["embedding"], options, seen)
    encoder, conditions = None, request.conditions
    if options["embedding"]:
        pixels = int(state["pixels"])
        encoder = _dataset_encoder(pixels, options["embedding"], options["inducing"])
    params = restored(partial(initial, field, encoder), state["params"])
    if encoder is not None:
        shots = options["shots"]
        conditions = told_of(encoder, params["encoder"], source, state, request, shots)
    sizes = [parameter.size for parameter in spec.parameters]
    found = integrate(
        field, params["field"], noise, conditions, path_of(options), request.seed, seen=seen,
        errors=np.repeat(state["errors"], sizes, axis=1),
    )  # fmt: skip
    return found * standard.deviation + standard.mean


# ------------------------------------------------------------------------------------- models
def _refuse(options: Options, batch: int) -> None:
    """What goes together and what does not, before anything is computed."""
    refuse_unknown_path(path_of(options))
    if options["function_weight"] and batch < 2:
        raise ConfigError(
            "training.batch_size: found 1, expected at least 2: options.function_weight measures "
            "errors by the noise of another member"
        )


def _field(spec: ParamSpec, conditions: int, options: Options, seen: Seen | None) -> Field:
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
_dataset_encoder = lru_cache(dataset_encoder)
