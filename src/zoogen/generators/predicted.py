"""Generators that predict weights: fitted by the task of the networks, not by their weights.

Training members tell what to ask for, their conditions and their weight decay; nothing is learned
from what their weights are. A network is predicted from its graph, conditions and random numbers,
and its loss on training images is followed back into the hypernetwork.
"""

from __future__ import annotations

from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int

from zoogen.data import Dataset, normalise
from zoogen.errors import ConfigError
from zoogen.generators.baselines import Values
from zoogen.generators.batches import in_batches
from zoogen.generators.conditions import forgotten
from zoogen.generators.fitting import Objective, fit, restored
from zoogen.generators.generator import Effort, Fittable, Options, Request, Source, State
from zoogen.generators.hypernetwork import Hypernetwork, Size, graph_hypernetwork, room_of
from zoogen.merging import loss_of
from zoogen.networks import Network, build_network
from zoogen.params import ParamSpec

HELD = 0.1  # share of the training images that validate
MOST_HELD = 512
CHECKED = 32  # networks of a look
BATCH = 256  # networks that are sampled side by side
AVERAGE = 0.99
DECAY = "train.weight_decay"


class _Arrays(NamedTuple):
    """What steps read: images of the task, and what members were told.

    Attributes:
        images: normalised.
        labels: true classes.
        conditions: of the members.
        decay: their weight decay.
    """

    images: Float[Any, "n c h w"]
    labels: Int[Any, " n"]
    conditions: Float32[np.ndarray, "m e"]
    decay: Float32[np.ndarray, " m"]


class _Draws(NamedTuple):
    """Everything random in some steps; the second axis counts predicted networks."""

    members: Any
    forget: Any
    latent: Any
    images: Any


def fit_hypernetwork(
    train: Fittable, validation: Fittable, options: Options, effort: Effort
) -> State:
    """A hypernetwork fitted by the loss of the networks that it predicts.

    The loss of a predicted network is that of its member's training: the cross-entropy of training
    images, with their true labels, and half the weight decay times the squared norm. Of the
    training images the last tenth is for validation. A batch is so many predicted networks, each
    with ``images`` images of its own; ``widths`` are further architectures, predicted as often.

    Raises:
        ConfigError: for a population that can't be predicted, or options that make no sense.
    """
    source = train.source
    assert source is not None, "a fit by a task needs the source of the members"
    networks = _networks(source, options["widths"])
    size, conditions = _size(options), train.conditions.shape[1]
    room = room_of(tuple(network.spec for network in networks))
    model = _hypernetwork(source.network, room, conditions, size)
    seen, held = _images(source.dataset(), source.config.data.fraction)
    images = min(options["images"], len(seen[1]))
    objective = Objective(
        name="hypernetwork",
        numbers=2 * (images + size.latent + conditions + 1),
        init=model.init,
        draw=partial(_draws, images, size.latent, train.sizes),
        loss=partial(_loss, model, networks),
        judged=partial(_judged, len(held[1])),
        average=AVERAGE,
    )
    fitted = fit(objective, _arrays(train, seen), _arrays(validation, held), effort)
    return {
        "room": np.array(room),
        "params": jax.tree.leaves(fitted.params),
        "losses": fitted.losses,
    }


def sample_hypernetwork(source: Source, state: State, options: Options, request: Request) -> Values:
    """Weights of networks of the source, which may be of another width than those trained.

    Raises:
        ConfigError: if its parameters have other names.
    """
    rows, columns = state["room"].tolist()
    size = _size(options)
    model = _hypernetwork(source.network, (rows, columns), request.conditions.shape[1], size)
    params = restored(model.init, state["params"])
    latent = np.random.default_rng(request.seed).random((request.count, size.latent), np.float32)

    def run(_: int, conditions: np.ndarray, latent: np.ndarray) -> Any:
        return _predicted(model, source.network.spec, params, conditions, latent)

    found: Values = in_batches(run, (request.conditions, latent), BATCH)
    return found


@partial(jax.jit, static_argnums=(0, 1))
def _predicted(
    model: Hypernetwork,
    spec: ParamSpec,
    params: Any,
    conditions: Float[Array, "b e"],
    latent: Float[Array, "b z"],
) -> Float[Array, "b p"]:
    return model.apply(params, spec, conditions, latent)


def _size(options: Options) -> Size:
    for name in ("channels", "rounds", "hidden", "latent", "images"):
        if options[name] < 1:
            raise ConfigError(f"options.{name}: found {options[name]}, expected at least 1")
    return Size(*(options[name] for name in Size._fields))


_hypernetwork = lru_cache(graph_hypernetwork)  # one object, hence one compilation


def _networks(source: Source, widths: list[Any]) -> tuple[Network, ...]:
    """The population's network and those of the same family with other widths."""
    config, own = source.config.network, source.network
    for width in widths:
        if type(width) is not int or width < 1:
            raise ConfigError(f"options.widths: found {width!r}, expected whole numbers above 0")
    others = [config.model_copy(update={"width": w}) for w in widths if w != config.width]
    return (own, *(build_network(other, own.image_shape, own.classes) for other in others))


def _images(dataset: Dataset, fraction: float) -> tuple[tuple[Any, Any], tuple[Any, Any]]:
    """Training images for steps and for looks; test images are nobody's here."""
    seen = dataset.train.first(dataset.training_size(fraction))
    count = min(MOST_HELD, round(HELD * len(seen)))
    if count < 1:
        raise ConfigError(
            f"hypernetwork: {len(seen)} training images leave none to validate on; take a "
            "population that was trained on more"
        )
    images = np.asarray(normalise(*map(jnp.asarray, (seen.images, dataset.mean, dataset.std))))
    cut = len(seen) - count
    return (images[:cut], seen.labels[:cut]), (images[cut:], seen.labels[cut:])


def _arrays(part: Fittable, images: tuple[Any, Any]) -> _Arrays:
    decay = part.population.table[DECAY].to_numpy(np.float32)
    return _Arrays(*images, part.conditions, np.nan_to_num(decay))


def _draws(
    images: int,
    latent: int,
    sizes: tuple[int, ...],
    arrays: _Arrays,
    batch: int,
    steps: int,
    seed: list[int],
) -> _Draws:
    rng = np.random.default_rng(seed)
    return _Draws(
        members=rng.integers(len(arrays.conditions), size=(steps, batch)),
        forget=forgotten(rng, sizes, (steps, batch)),
        latent=rng.random((steps, batch, latent), np.float32),
        images=rng.integers(len(arrays.labels), size=(steps, batch, images)),
    )


def _judged(images: int, draws: _Draws) -> _Draws:
    """A few networks, told all, on all images of the validation."""
    steps, batch, _ = draws.images.shape
    every = np.broadcast_to(np.arange(images), (steps, batch, images))
    few: _Draws = jax.tree.map(lambda leaf: leaf[:, :CHECKED], draws._replace(images=every))
    return few._replace(forget=np.zeros_like(few.forget))


def _loss(
    model: Hypernetwork,
    networks: tuple[Network, ...],
    params: Any,
    arrays: _Arrays,
    drawn: _Draws,
) -> Float[Array, ""]:
    """Mean over predicted networks of all architectures."""
    conditions = jnp.where(drawn.forget, 0, arrays.conditions[drawn.members])
    decay = arrays.decay[drawn.members]

    def of_network(network: Network) -> Float[Array, ""]:
        weights = model.apply(params, network.spec, conditions, drawn.latent)
        batches = arrays.images[drawn.images], arrays.labels[drawn.images]
        losses = jax.vmap(loss_of(network))(weights, *batches)
        return (losses + decay / 2 * jnp.square(weights).sum(axis=1)).mean()

    return jnp.stack([of_network(network) for network in networks]).mean()
