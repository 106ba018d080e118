"""D2NWG: an autoencoder of weights, diffusion of its codes, and an encoder of data sets.

The published method neither aligns members nor scales their layers, and has no guidance:
``aligned = false``, ``normalisation = "none"`` and ``guidance = 1`` are as published. Here both
networks are sized to small members on a CPU: a residual autoencoder instead of a convolutional one
(:mod:`~zoogen.generators.autoencoder`) and a residual perceptron over codes instead of a UNet.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

import jax
import numpy as np

from zoogen.errors import ConfigError
from zoogen.generators.autoencoder import (
    Autoencoder,
    Code,
    autoencoder,
    chunks_of,
    decoded,
    encoded,
    fit_autoencoder,
)
from zoogen.generators.baselines import Values, aligned
from zoogen.generators.dataset_encoder import dataset_encoder
from zoogen.generators.diffusion import (
    Denoiser,
    Latents,
    denoised,
    denoiser,
    fit_denoiser,
    steps_of,
)
from zoogen.generators.fitting import restored
from zoogen.generators.generator import Effort, Fittable, Options, Request, Source, State
from zoogen.generators.trained_on import told_of, trained_on
from zoogen.generators.velocity import vector_field
from zoogen.params import ParamSpec
from zoogen.symmetry import align_members

NORMALISATIONS = ("tensor", "none")


# ---------------------------------------------------------------------------------------- fit
def fit(train: Fittable, validation: Fittable, options: Options, effort: Effort) -> State:
    """Fit the autoencoder, then the diffusion of its codes with the encoder of data sets.

    Raises:
        ConfigError: for an option out of its range, members without classes of images to embed, or
            a loss that is not finite.
    """
    steps_of(options["sampling_steps"])  # nobody wants to learn of it after the fit
    if not 0 < options["share"] < 1:
        raise ConfigError(f"options.share: found {options['share']:g}, expected between 0 and 1")
    told = trained_on(train, validation, options["embedding"] > 0)
    first = max(1, round(options["share"] * effort.steps))
    found = _fit_codes(train, validation, options, replace(effort, steps=first))
    latents, held = (
        Latents(*code, part.conditions, of, told.images)
        for code, part, of in zip(found.codes, (train, validation), told.of, strict=True)
    )
    size, conditions = latents.mean.shape[1], train.conditions.shape[1]
    model = _denoiser(size, conditions, told.images.shape[1], options)
    rest = replace(effort, steps=max(1, effort.steps - first))
    fitted = fit_denoiser(
        model, latents, held, rest, told.examples, options["shots"], options["contrast"],
        train.sizes,
    )  # fmt: skip
    return {
        **found.state,
        "denoiser": jax.tree.leaves(fitted.params),
        **told.state,
        "losses": fitted.losses,
    }


class _Coded(NamedTuple):
    """What the first stage leaves: what is kept, and codes of both parts, of unit scale."""

    state: State
    codes: list[Code]


def _fit_codes(train: Fittable, validation: Fittable, options: Options, effort: Effort) -> _Coded:
    spec, values = train.network.spec, [train.values, validation.values]
    if options["aligned"]:
        values[0] = aligned(train)
        values[1] = align_members(spec, values[0].mean(axis=0), values[1]).values
    scale = scale_of(spec, values[0], options["normalisation"])
    seen, held = (((v - scale.mean) / scale.deviation).astype(np.float32) for v in values)
    model = _autoencoder(spec, options)
    fitted = fit_autoencoder(model, seen, held, effort, options["kl"])
    codes = [encoded(model, fitted.params, part) for part in (seen, held)]
    unit = _unit_of(codes[0])
    state = {
        **{f"weights_{name}": value for name, value in scale._asdict().items()},
        **{f"codes_{name}": value for name, value in unit._asdict().items()},
        "autoencoder": jax.tree.leaves(fitted.params),
        "autoencoder_losses": fitted.losses,
    }
    standard = [
        Code((c.mean - unit.mean) / unit.deviation, c.deviation / unit.deviation) for c in codes
    ]
    return _Coded(state, standard)


def scale_of(spec: ParamSpec, values: Values, how: str) -> Code:
    """Mean and deviation of each tensor over members and entries, or 0 and 1.

    Raises:
        ConfigError: for another ``how``.
    """
    if how not in NORMALISATIONS:
        raise ConfigError(
            f"options.normalisation: found {how!r}, expected one of {', '.join(NORMALISATIONS)}"
        )
    scale = Code(np.zeros(spec.size, np.float32), np.ones(spec.size, np.float32))
    for parameter in spec.parameters if how == "tensor" else ():
        place = slice(parameter.offset, parameter.offset + parameter.size)
        scale.mean[place] = values[:, place].mean()
        scale.deviation[place] = values[:, place].std() or 1.0
    return scale


def _unit_of(code: Code) -> Code:
    """Mean and deviation of each number of a code, over members and the spread of their own."""
    variance = code.mean.var(axis=0) + np.square(code.deviation).mean(axis=0)
    return Code(code.mean.mean(axis=0), np.sqrt(variance))


# ------------------------------------------------------------------------------------- sample
def sample(source: Source, state: State, options: Options, request: Request) -> Values:
    """Codes from noise, weights from codes.

    With another ``dataset`` in the source, of equally large images, its embedding is asked for.

    Raises:
        ConfigError: for an impossible number of steps, or a data set of other images.
    """
    model = _autoencoder(source.network.spec, options)
    noise = _denoiser(model.size, request.conditions.shape[1], int(state["pixels"]), options)
    params = restored(noise.init, state["denoiser"])
    told = request.conditions
    if noise.encoder is not None:
        known = params["encoder"]
        told = told_of(noise.encoder, known, source, state, request, options["shots"])
    codes = denoised(
        noise.field, params["field"], told, model.size, options["sampling_steps"],
        options["guidance"], request.seed,
    )  # fmt: skip
    codes = codes * state["codes_deviation"] + state["codes_mean"]
    kept = restored(lambda key: model.init(key, state["weights_mean"]), state["autoencoder"])
    weights = decoded(model, kept, codes)
    return weights * state["weights_deviation"] + state["weights_mean"]


# ------------------------------------------------------------------------------------- models
def _autoencoder(spec: ParamSpec, options: Options) -> Autoencoder:
    return _cached_autoencoder(
        spec, options["chunks"], options["piece"], options["latent"], options["hidden"]
    )


@lru_cache  # one object, hence one compilation, per shape
def _cached_autoencoder(
    spec: ParamSpec, chunks: str, piece: int, latent: int, hidden: int
) -> Autoencoder:
    return autoencoder(chunks_of(spec, chunks, piece), spec.size, latent, hidden)


def _denoiser(codes: int, conditions: int, pixels: int, options: Options) -> Denoiser:
    return _cached_denoiser(
        codes, conditions, pixels, options["embedding"], options["inducing"], options["width"],
        options["depth"],
    )  # fmt: skip


@lru_cache  # one object, hence one compilation, per shape
def _cached_denoiser(
    codes: int, conditions: int, pixels: int, embedding: int, inducing: int, width: int, depth: int
) -> Denoiser:
    field = vector_field(codes, conditions + embedding, width, depth)
    encoder = dataset_encoder(pixels, embedding, inducing) if embedding else None
    return denoiser(field, encoder, codes, embedding)
