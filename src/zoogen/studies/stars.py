"""Stars: a model trained to be linearly connected with the members of a cell, and with others."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from zoogen.data import noisy_labels, normalise
from zoogen.merging import StarTraining, points_between, star_model
from zoogen.studies.cohort import Subjects
from zoogen.studies.estimates import Estimate, compare_members
from zoogen.studies.trainees import Trainees
from zoogen.symmetry import align_members, align_population, apply, weight_matching

TIMES = (0.0, 0.25, 0.5, 0.75, 1.0)


def star(members: Trainees) -> Iterator[Estimate]:
    """Lowest test accuracy on lines to a star, against that on lines between aligned members.

    For each member a star is trained from the aligned others of its cell, so that the member itself
    is held out once: as many steps as the members had, at their own peak rate, with their images
    and labels. What is measured of a member is the line to the star that it had no part in, and
    the mean over lines from that star to the others; the reference is the mean over lines from the
    member to each other one.

    Reference:
        Sonthalia, Rubinstein, Abbasnejad and Oh, Do deep neural network solutions form a star
        domain?, 2024.
    """
    subjects = members.subjects
    weights = subjects.weights(subjects.snapshots - 1)
    held_out, training, chords = (np.full(len(weights), np.nan) for _ in range(3))
    cells = list(subjects.by_cell())
    for _, places in cells:
        if len(places) > 1:
            found = _of_cell(members, places, weights[places])
            held_out[places], training[places], chords[places] = found
        members.on_members(len(places))
    for setting, lowest in (
        ("own members", training),
        ("held out", held_out),
    ):
        yield from compare_members(cells, setting, lowest, chords)


def _of_cell(
    members: Trainees, places: Int[np.ndarray, " n"], weights: Float[np.ndarray, "n p"]
) -> tuple[Float[np.ndarray, " n"], ...]:
    """Of each member: lowest accuracy to its star, of that star's others, and between members."""
    subjects, count = members.subjects, len(places)
    spec, everyone = subjects.network.spec, np.arange(count)
    folds = [align_population(spec, weights[everyone != i]) for i in range(count)]
    others = np.stack([fold.values for fold in folds])
    stars = _stars(members, int(places[0]), others)
    kept = [align_members(spec, f.reference, weights[i : i + 1]) for i, f in enumerate(folds)]
    to_held_out = _lowest(subjects, stars, np.concatenate([each.values for each in kept]))
    repeated = np.repeat(stars, count - 1, axis=0)
    to_others = _lowest(subjects, repeated, others.reshape(repeated.shape))
    first, second = np.triu_indices(count, 1)
    matched = weight_matching(spec, weights[first], weights[second]).elements
    between = _lowest(subjects, weights[first], apply(spec, matched, weights[second]))
    of_pairs = np.zeros((count, count))
    of_pairs[first, second] = of_pairs[second, first] = between
    mean = of_pairs.sum(axis=1) / (count - 1)
    return to_held_out, to_others.reshape(count, -1).mean(axis=1), mean


def _stars(
    members: Trainees, first: int, others: Float[np.ndarray, "n m p"]
) -> Float[np.ndarray, "n p"]:
    """A star of each set of members; all of one cell, whose hyper-parameters are those of one."""
    recipe, data, values = members.recipe, members.data, members.members[first].values
    labels = noisy_labels(
        data.labels,
        jnp.float32(values["data.label_noise"]),
        recipe.classes,
        recipe.noise_seed,
    )
    training = StarTraining(recipe.timeline.total_steps, recipe.train.batch_size)
    images = normalise(data.images, data.mean, data.std)
    rate = values["train.learning_rate"]
    train = partial(star_model, recipe.net, others, images, labels)
    return train(learning_rate=rate, training=training, seed=recipe.root)


def _lowest(
    subjects: Subjects, starts: Float[np.ndarray, "q p"], ends: Float[np.ndarray, "q p"]
) -> Float[np.ndarray, " q"]:
    """Lowest test accuracy at five points of each line, its ends among them."""
    points = points_between(starts, ends, TIMES)
    found = subjects.accuracy(subjects.recomputed(points.reshape(-1, points.shape[-1])))
    return found.reshape(points.shape[:2]).min(axis=1)
