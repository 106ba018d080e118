"""Averages of weights over snapshots and over seeds, and ensembles: averages of probabilities."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
from jaxtyping import Float, Float32, Int
from scipy.special import softmax

from zoogen.studies.cohort import Subjects, accuracy
from zoogen.studies.estimates import (
    Estimate,
    Replicates,
    compare,
    compare_members,
    leaving_out,
    replicates,
)
from zoogen.symmetry import align_population


# ------------------------------------------------------------------------------------ snapshots
def average_snapshots(members: Subjects) -> Iterator[Estimate]:
    """Average the last k = 2, 3, … stored snapshots of a member, against its last.

    The initialisation is no part of any average. Snapshots weigh the same, however far apart
    they were stored. Running statistics of averages are those of the training probe set.

    Reference:
        Izmailov et al., Averaging weights leads to wider optima and better generalization, 2018.
    """
    last = members.weights(members.snapshots - 1)
    total, before = last.astype(np.float64), members.accuracy(last)
    for count in range(2, members.snapshots):
        total += members.weights(members.snapshots - count)
        after = members.accuracy(members.recomputed(total / count))
        yield from compare_members(members.by_cell(), count, after, before)


# ---------------------------------------------------------------------------------------- seeds
def average_seeds(members: Subjects) -> Iterator[Estimate]:
    """Average the members of a cell, as they are and aligned, against the mean member.

    Alignment is that of all members of the cell, also where the error leaves one of them out.
    Running statistics of averages are those of the training probe set.

    Reference:
        Ainsworth, Hayase and Srinivasa, Git Re-Basin, 2022; Wortsman et al., Model soups, 2022.
    """
    weights = members.weights(members.snapshots - 1)
    cells = [(cell, places) for cell, places in members.by_cell() if len(places) > 1]
    if not cells:
        return
    rows = [weights]
    for _, places in cells:
        raw = weights[places]
        aligned = align_population(members.network.spec, raw).values
        rows += [members.recomputed(_averages(each)) for each in (raw, aligned)]
    alone, *averaged = np.split(
        members.accuracy(np.concatenate(rows)), np.cumsum([len(block) for block in rows])[:-1]
    )
    for number, (cell, places) in enumerate(cells):
        reference = Replicates.means(alone[places])
        for setting, found in zip(("raw", "aligned"), averaged[2 * number :], strict=False):
            left_out = found[1:] if len(found) > 1 else np.full(len(places), np.nan)
            yield compare(cell, setting, Replicates(float(found[0]), left_out), reference)


def _averages(values: Float[np.ndarray, "n p"]) -> Float32[np.ndarray, "r p"]:
    """The mean of all members, then of all but each."""
    means = [values[kept].mean(axis=0, dtype=np.float64) for kept in leaving_out(len(values))]
    return np.stack(means).astype(np.float32)


# ------------------------------------------------------------------------------------- ensemble
def ensemble(members: Subjects) -> Iterator[Estimate]:
    """Average the probabilities of k = 2, 3, … members of a cell, against the mean member.

    Of n members, the n ensembles of k neighbours in a ring count, so that each member is in
    equally many.

    Reference:
        Lakshminarayanan, Pritzel and Blundell, Simple and scalable predictive uncertainty
        estimation using deep ensembles, 2017.
    """
    logits = members.logits(members.weights(members.snapshots - 1))
    alone = accuracy(logits, members.labels)
    for cell, places in members.by_cell():
        probabilities = softmax(logits[places].astype(np.float64), axis=-1)
        for size in range(2, len(places) + 1):
            joint = partial(_joint_accuracy, probabilities, members.labels, size)
            found = replicates(len(places), joint)
            yield compare(cell, size, found, Replicates.means(alone[places]))


def _joint_accuracy(
    probabilities: Float[np.ndarray, "n b k"],
    labels: Int[np.ndarray, " b"],
    size: int,
    kept: Int[np.ndarray, " n"],
) -> float:
    """Mean accuracy of the ensembles of ``size`` of the kept members, of all if there are fewer."""
    groups = _ring(kept, min(size, len(kept)))
    means = np.stack([probabilities[group].mean(axis=0) for group in groups])
    return float(accuracy(means, labels).mean())


def _ring(places: Int[np.ndarray, " n"], size: int) -> list[Int[np.ndarray, " k"]]:
    """Every run of ``size`` neighbours in a ring; all places once if there are no more."""
    starts = range(len(places) if size < len(places) else 1)
    return [np.roll(places, -start)[:size] for start in starts]
