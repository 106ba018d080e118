"""A flow over principal components of aligned members."""

from __future__ import annotations

from functools import lru_cache, partial

import jax
import numpy as np

from zoogen.generators.baselines import Values, aligned, decoded, principal
from zoogen.generators.fitting import restored
from zoogen.generators.flow import Data, Field, errors_of, fit_field, initial
from zoogen.generators.generator import Effort, Fittable, Options, Request, Source, State
from zoogen.generators.integration import integrate
from zoogen.generators.path import path_of, refuse_unknown_path
from zoogen.generators.velocity import vector_field
from zoogen.symmetry import align_members


def fit(train: Fittable, validation: Fittable, options: Options, effort: Effort) -> State:
    """A flow over the scores of the principal components of aligned members.

    What the components leave over is kept as independent noise of the same size, without which
    samples would be too short.
    """
    refuse_unknown_path(path_of(options))
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
        "errors": errors_of(field, fitted.params["field"], held_data),
    }


def sample(_source: Source, state: State, options: Options, request: Request) -> Values:
    """Scores from the flow, weights from the scores."""
    rng = np.random.default_rng(request.seed)
    size = len(state["deviations"])
    noise = rng.standard_normal((request.count, size), np.float32)
    field = _score_field(size, request.conditions.shape[1], options)
    params = restored(partial(initial, field, None), state["params"])
    scores = integrate(
        field,
        params["field"],
        noise,
        request.conditions,
        path_of(options),
        request.seed,
        errors=state["errors"],
    )
    values = decoded(state, scores)
    return values + state["rest"] * rng.standard_normal(values.shape, np.float32)


def _score_field(size: int, conditions: int, options: Options) -> Field:
    return _vector_field(size, conditions, options["width"], options["depth"])


_vector_field = lru_cache(vector_field)  # one object, hence one compilation, per shape
