"""Task vectors of members, composed for a task of which there are a few examples only."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

from zoogen.data import normalise
from zoogen.errors import ConfigError
from zoogen.merging import add_vectors, learn_coefficients, loss_of, task_vectors
from zoogen.merging.descent import descend
from zoogen.networks import Network
from zoogen.population import MemberFunction, over_members
from zoogen.progress import scaled
from zoogen.studies.estimates import Estimate, compare_members
from zoogen.studies.trainees import Trainees
from zoogen.train import continue_training

DIRECTIONS = {"left": (0, -1), "right": (0, 1), "up": (-1, 0), "down": (1, 0)}
TARGET = (1, 1)  # a direction that no vector was made for
PER_CLASS = 5  # target examples, on average
SCALES = np.linspace(-0.5, 1.5, 21)
STEPS, RATE = 300, 1e-3  # of the weights themselves, by Adam

Examples = tuple[Array, Array]


def compose_tasks(members: Trainees) -> Iterator[Estimate]:
    """Compose what was learned on shifted images for another shift, against the member as it is.

    Four tasks are a member's own images moved left, right, up and down by an eighth of a side; on
    each the member is trained on through the second half of its schedule. The target is images
    moved along a diagonal, of which five a class are seen. On these are chosen: the best single
    vector with the best scale; the scale of the sum of all; one coefficient for each vector and
    parameter; and, beside, all weights, by fine-tuning.

    Reference:
        Ilharco et al., Editing models with task arithmetic, 2023; Zhang et al., Knowledge
        composition using task vectors with learned anisotropic scaling, 2024. There, tasks are
        data sets.

    Raises:
        ConfigError: if members have batch norms.
    """
    subjects, network = members.subjects, members.recipe.net
    if network.spec.statistics:
        raise ConfigError(
            "study task-vectors: batch norms need statistics of the target's images, of which "
            "there are too few; take members with network.norm = 'layer', or of another family"
        )
    last = subjects.weights(subjects.snapshots - 1)
    vectors = np.asarray(task_vectors(last, _fine_tuned(members, last)))
    few = _few_examples(members)
    moved = shifted(np.asarray(subjects.probe.images), TARGET)
    target = replace(subjects, probe=subjects.probe._replace(images=moved))
    before = target.accuracy(last)
    ways: dict[str, Callable[[], Float[np.ndarray, "m p"]]] = {
        "best single": lambda: _best_scaled(network, last, vectors, few),
        "scaled sum": lambda: _best_scaled(network, last, vectors.sum(axis=1, keepdims=True), few),
        "learned blocks": lambda: add_vectors(
            network.spec, last, vectors, learn_coefficients(network, last, vectors, *few)
        ),
        "fine-tuned": lambda: np.asarray(_tuned(network)(last, few)),
    }
    for way, composed in ways.items():
        after = target.accuracy(composed())
        yield from compare_members(subjects.by_cell(), way, after, before)


def shifted(
    images: Shaped[np.ndarray, "n c h w"], direction: tuple[int, int]
) -> Shaped[np.ndarray, "n c h w"]:
    """Images moved by an eighth of each side, at least one pixel; what is uncovered is black.

    Example:
        >>> shifted(np.arange(1, 5).reshape(1, 1, 2, 2), (0, 1)).tolist()
        [[[[0, 1], [0, 3]]]]
    """
    moved = np.zeros_like(images)
    steps = [way * max(1, side // 8) for way, side in zip(direction, images.shape[2:], strict=True)]
    to, origin = ([_covered(sign * step) for step in steps] for sign in (1, -1))
    moved[:, :, to[0], to[1]] = images[:, :, origin[0], origin[1]]
    return moved


def _covered(step: int) -> slice:
    return slice(step, None) if step >= 0 else slice(None, step)


def _fine_tuned(members: Trainees, last: Float[np.ndarray, "m p"]) -> Float[np.ndarray, "m k p"]:
    """Members trained on with images moved in each direction."""
    recipe, total = members.recipe, members.recipe.timeline.total_steps
    advance = scaled(members.on_members, 1 / len(DIRECTIONS))
    tuned = []
    for direction in DIRECTIONS.values():
        images = jnp.asarray(shifted(np.asarray(members.data.images), direction))
        data = members.data._replace(images=images)
        steps = (total // 2, total)
        found = continue_training(recipe, data, members.members, last, None, steps, advance)
        tuned.append(found[:, -1])
    return np.stack(tuned, axis=1)


def _few_examples(members: Trainees) -> Examples:
    """The first training images, moved, with their true labels."""
    data, count = members.data, PER_CLASS * members.recipe.classes
    images = shifted(np.asarray(data.images[:count]), TARGET)
    return normalise(jnp.asarray(images), data.mean, data.std), data.labels[:count]


def _best_scaled(
    network: Network,
    last: Float[np.ndarray, "m p"],
    vectors: Float[np.ndarray, "m k p"],
    few: Examples,
) -> Float[np.ndarray, "m p"]:
    """Each member plus the one scaled vector of lowest loss on a few examples."""
    scales = SCALES.astype(np.float32)
    tried = last[:, None, None] + scales[:, None] * vectors[:, :, None]
    points = tried.reshape(len(last), -1, last.shape[1])
    losses = np.asarray(_losses(network)(points, few))
    best = np.where(np.isfinite(losses), losses, np.inf).argmin(axis=1)
    return points[np.arange(len(last)), best]


@lru_cache(maxsize=16)
def _losses(network: Network) -> MemberFunction:
    loss = loss_of(network)

    def of_member(points: Array, few: Examples) -> Float[Array, " t"]:
        return jax.lax.map(lambda values: loss(values, *few), points)

    return over_members(of_member)


@lru_cache(maxsize=16)
def _tuned(network: Network) -> MemberFunction:
    loss = loss_of(network)

    def of_member(values: Array, few: Examples) -> Any:
        return descend(lambda own: loss(own, *few), values, STEPS, RATE)

    return over_members(of_member)
