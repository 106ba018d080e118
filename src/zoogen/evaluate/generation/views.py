"""Views of the test images: hard enough that networks can be told apart by what they get wrong.

Good networks get few images wrong, and among thousands of training members one gets just the same
few wrong: overlaps of real members and of copies are then alike, and say nothing. On the same
images with noise there are more errors to compare.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from zoogen.evaluate.generation.behaviour import Images, wrong_overlap

LEVELS = (0.0, 0.75, 1.5)  # of noise, in deviations of the pixels
ENOUGH_IMAGES = 1000  # of a view with noise, by several draws
LEAK = 0.1  # share of near copies that may pass for new; of real members 0.9 do
NEAR = 0.05  # noise on weights that makes near copies, in units of each tensor's size
QUANTILE = 0.9  # of the overlaps of held-out members: more is taken for a copy

Wrong = Bool[np.ndarray, "n b"]


class Exam(NamedTuple):
    """What networks are tested on.

    Attributes:
        images: with the statistics of the training images.
        labels: their classes.
    """

    images: Images
    labels: Int[np.ndarray, " b"]


class View(NamedTuple):
    """Images on which overlaps of wrong predictions are taken.

    Attributes:
        level: of the noise; 0 for the test images as they are.
        exam: the images.
        leak: share of near copies of training members whose overlap is within that of real members.
    """

    level: float
    exam: Exam
    leak: float

    @property
    def words(self) -> str:
        """What it is, for a report.

        Example:
            >>> View(0.75, Exam(Images(np.zeros((3, 1, 1, 1)), 0, 1), np.zeros(3, int)), 0.0).words
            'test images with noise of 0.75 deviations (3)'
        """
        noise = f" with noise of {self.level:g} deviations" if self.level else ""
        return f"test images{noise} ({len(self.exam.labels)})"


def noisy(exam: Exam, level: float, seed: int = 0) -> Exam:
    """The images with fixed Gaussian noise, in several draws where they are few.

    Args:
        exam: images as they are.
        level: of the noise, in deviations of each channel over the training images; 0 leaves the
            images as they are.
        seed: of the noise.
    """
    if not level:
        return exam
    draws = -(-ENOUGH_IMAGES // len(exam.labels))
    raw = np.tile(np.asarray(exam.images.raw, np.float32), (draws, 1, 1, 1))
    noise = np.random.default_rng((seed, 2)).standard_normal(raw.shape, np.float32)
    scale = np.float32(level) * np.asarray(exam.images.std, np.float32)[:, None, None]
    return Exam(exam.images._replace(raw=raw + scale * noise), np.tile(exam.labels, draws))


def choose_view(
    exam: Exam, wrong: Callable[[Exam], tuple[Wrong, Wrong, Wrong]], enough: float = LEAK
) -> View:
    """The least noise with which near copies of training members are seen.

    A view shows copies if few near copies have an overlap that real members have, too. No generated
    network takes part in the choice.

    Args:
        exam: the test images.
        wrong: images of a view that training members, held-out members and near copies of training
            members get wrong.
        enough: share of near copies that may pass.

    Returns:
        The first view that shows copies, or the one that shows most of them.
    """
    found: list[View] = []
    for level in LEVELS:
        shown = noisy(exam, level)
        found.append(View(level, shown, leak_of(*wrong(shown))))
        if found[-1].leak <= enough:
            break
    return min(found, key=lambda view: view.leak)


def leak_of(members: Wrong, real: Wrong, copies: Wrong) -> float:
    """Share of copies whose largest overlap with a member real ones have, too."""
    largest: tuple[Float[np.ndarray, " n"], ...] = tuple(
        wrong_overlap(side, members).max(axis=1) for side in (real, copies)
    )
    return float((largest[1] <= np.quantile(largest[0], QUANTILE)).mean())
