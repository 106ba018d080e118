"""The evaluator: it alone holds held-out members and test images, and hands out only judgements."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float, Shaped

from zoogen.data import Dataset, normalise
from zoogen.errors import ConfigError
from zoogen.evaluate.generation.behaviour import (
    Images,
    finite_outputs,
    functional_features,
    probabilities,
    wrong_predictions,
)
from zoogen.evaluate.generation.distinct import distinct
from zoogen.evaluate.generation.ensembles import Ensembled, ensembled
from zoogen.evaluate.generation.frame import Frame, frame_of
from zoogen.evaluate.generation.neighbours import CANDIDATES, Known, Nearest, nearest
from zoogen.evaluate.generation.novelty import Curve, Point, far_enough, passing
from zoogen.evaluate.generation.views import NEAR, Exam, View, Wrong, choose_view
from zoogen.generators.baselines import noisy_members
from zoogen.generators.parts import SMALLEST
from zoogen.merging import recompute_statistics
from zoogen.networks import Network
from zoogen.params import ParamSpec

PROBES = 200  # images on which functions are compared
SIGMAS = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 1.2)
NOISED = 100  # networks of each size of noise
ENSEMBLED = 200  # networks that ensembles are drawn from
PREPARED = ("frame", "view", "_members", "real", "real_neighbours", "real_apart", "real_distinct")


def exam_of(dataset: Dataset) -> tuple[Exam, Images]:
    """The test images of a data set, and as probes its first training images."""
    test, train = dataset.test, dataset.train.first(PROBES)
    statistics = dataset.mean, dataset.std
    return Exam(Images(test.images, *statistics), test.labels), Images(train.images, *statistics)


class Evaluator:
    """Judges weights by members that no generator saw.

    What it holds of training members, their place in a common frame and their functions, is
    computed once for all samples that it judges.

    Args:
        network: whose weights are judged.
        train: members that generators were fitted on; copies of these are what is looked for.
        held_out: members of other runs of the same recipe.
        exam: test images with labels.
        probes: images, training images as a rule, on which functions are compared; the first
            ``PROBES`` count.
        candidates: see :func:`~zoogen.evaluate.generation.neighbours.nearest`.

    Raises:
        ConfigError: if a part has fewer than ``SMALLEST`` members, weights of another length, or
            weights that are not finite.
    """

    def __init__(
        self,
        network: Network,
        train: Float[np.ndarray, "n p"],
        held_out: Float[np.ndarray, "h p"],
        exam: Exam,
        probes: Images,
        candidates: int | None = CANDIDATES,
    ) -> None:
        self.network = network
        self._train = _members(network.spec, train, "training")
        self._held_out = _members(network.spec, held_out, "held-out")
        self._exam, self._candidates = exam, candidates
        self._probes = probes._replace(raw=probes.raw[:PROBES])

    def __repr__(self) -> str:
        return (
            f"<Evaluator: {len(self._train)} training and {len(self._held_out)} held-out members, "
            f"{len(self._exam.labels)} test images>"
        )

    @property
    def members(self) -> int:
        """Training members."""
        return len(self._train)

    @cached_property
    def population(self) -> str:
        """Digits that tell apart by what samples are judged: training and held-out members and
        test images. Where these are equal, gates and held-out figures are."""
        digest, (images, labels) = hashlib.sha256(), self._exam
        for array in (self._train, self._held_out, images.raw, labels):
            digest.update(f"{np.shape(array)}".encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()[:12]

    def prepare(self, done: Callable[[float], None] = lambda parts: None) -> None:
        """Compute what all samples are compared with, which is else done when first needed.

        Args:
            done: called after each of ``len(PREPARED)`` parts, with 1.
        """
        for name in PREPARED:
            getattr(self, name)
            done(1)

    # ------------------------------------------------------------------------- single networks
    def accuracies(self, weights: Float[np.ndarray, "n p"]) -> Float[np.ndarray, " n"]:
        """Test accuracy of networks, 0 to 1; 0 where weights or outputs are not finite."""
        return 1 - self.wrong(weights).mean(axis=1)

    def recalibrated_accuracies(self, weights: Float[np.ndarray, "n p"]) -> Float[np.ndarray, " n"]:
        """Test accuracy after running statistics of norms are computed anew on the probes."""
        values = checked(self.network.spec, weights)
        images = normalise(*self._probes)
        return self.accuracies(recompute_statistics(self.network, values, images))

    def wrong(self, weights: Float[np.ndarray, "n p"]) -> Bool[np.ndarray, "n b"]:
        """Which test images networks get wrong."""
        return self._wrong_on(self._exam, checked(self.network.spec, weights))

    def _wrong_on(self, exam: Exam, values: Float[np.ndarray, "n p"]) -> Bool[np.ndarray, "n b"]:
        return wrong_predictions(self.network, values, *exam)

    def ensembled(self, weights: Float[np.ndarray, "n p"]) -> dict[int, Ensembled]:
        """Test accuracy of ensembles of networks and their gain over one of them, by size.

        Args:
            weights: finite; the first ``ENSEMBLED`` networks count.
        """
        values = checked(self.network.spec, weights)[:ENSEMBLED]
        given = probabilities(self.network, values, self._exam.images)
        return ensembled(given, self._exam.labels)

    def known(self, weights: Float[np.ndarray, "n p"]) -> Known:
        """What neighbours and diversity are computed from.

        Args:
            weights: finite.
        """
        values = checked(self.network.spec, weights)
        features = functional_features(probabilities(self.network, values, self._probes))
        wrong = self.wrong(values)
        hard = self._wrong_on(self.view.exam, values) if self.view.level else wrong
        return Known(self.frame.place(values), features, wrong, hard)

    def neighbours(self, networks: Known) -> Nearest:
        """What lies nearest to networks among the training members."""
        return nearest(self.frame, networks, self._members, self._candidates)

    def nearest_members(self, weights: Float[np.ndarray, "n p"]) -> Float[np.ndarray, "n p"]:
        """The training member nearest to each network, as it was trained; a random one where there
        is none, for the network is not finite."""
        values = checked(self.network.spec, weights)
        usable = self.usable(values)
        member = np.random.default_rng(0).integers(self.members, size=len(values))
        member[usable] = self.neighbours(self.known(values[usable])).member
        return self._train[member]

    # ------------------------------------------------------------------------------ what is real
    @cached_property
    def frame(self) -> Frame:
        """The common frame of the training members."""
        return frame_of(self.network.spec, self._train)

    @cached_property
    def view(self) -> View:
        """The view of the test images on which overlaps are taken; training members, near copies of
        them and held-out members decide."""
        sides = self._train, self._held_out, self.noisy_members(NEAR, NOISED)

        def wrong(exam: Exam) -> tuple[Wrong, Wrong, Wrong]:
            members, real, copies = (self._wrong_on(exam, values) for values in sides)
            return members, real, copies

        return choose_view(self._exam, wrong)

    @cached_property
    def _members(self) -> Known:
        return self.known(self._train)

    @cached_property
    def real(self) -> Known:
        """The held-out members."""
        return self.known(self._held_out)

    @cached_property
    def real_neighbours(self) -> Nearest:
        """Neighbours of the held-out members among the training members."""
        return self.neighbours(self.real)

    def apart(self, placed: Float[np.ndarray, "n p"]) -> Bool[np.ndarray, " n"]:
        """Which networks are as far from each one before them that counts as from training members;
        see :func:`~zoogen.evaluate.generation.distinct.distinct`.

        Args:
            placed: finite weights in the common frame.
        """
        return distinct(self.network.spec, placed, far_enough(self.real_neighbours))

    def distinct(
        self,
        networks: Known,
        accuracy: Float[np.ndarray, " n"],
        found: Nearest,
        apart: Bool[np.ndarray, " n"],
    ) -> Bool[np.ndarray, " n"]:
        """Which networks pass the gate and are apart from each one before them that does.

        Args:
            networks: finite ones.
            accuracy: of the same.
            found: their neighbours.
            apart: which of them, and of others that do not stand here, are apart from all before
                them: where all that pass are, none is compared again.
        """
        good = passing(accuracy, found, self.real_accuracies, self.real_neighbours)
        if not apart[good].all():
            good[good] = self.apart(networks.placed[good])
        return good

    @cached_property
    def real_apart(self) -> Bool[np.ndarray, " h"]:
        """Which held-out members are apart from those before them."""
        return self.apart(self.real.placed)

    @cached_property
    def real_distinct(self) -> float:
        """Share of the held-out members that pass the gate and differ from each other."""
        real = self.real, self.real_accuracies, self.real_neighbours
        return float(self.distinct(*real, self.real_apart).mean())

    @property
    def real_accuracies(self) -> Float[np.ndarray, " h"]:
        """Test accuracies of the held-out members."""
        return 1 - self.real.wrong.mean(axis=1)

    @cached_property
    def real_ensembled(self) -> dict[int, Ensembled]:
        """Of the held-out members."""
        return self.ensembled(self._held_out)

    @property
    def one_image(self) -> float:
        """The accuracy that a single test image stands for."""
        return 1 / len(self._exam.labels)

    # --------------------------------------------------------------------------------- baselines
    def point(self, weights: Float[np.ndarray, "n p"], setting: str = "") -> Point:
        """Mean accuracy and novelty of networks; those that are not finite count in accuracy."""
        values = checked(self.network.spec, weights)
        usable = values[self.usable(values)]
        found = self.neighbours(self.known(usable))
        real = float(np.median(self.real_neighbours.distance))
        return Point(
            setting,
            float(self.accuracies(values).mean()) if len(values) else float("nan"),
            float(found.overlap.mean()) if len(usable) else float("nan"),
            float(np.median(found.distance)) / real if len(usable) and real else float("nan"),
        )

    def curve(self, name: str, settings: Mapping[str, Float[np.ndarray, "n p"]]) -> Curve:
        """What a baseline reaches.

        Args:
            name: of the baseline.
            settings: setting → networks that it gives.
        """
        return Curve(name, tuple(self.point(w, setting) for setting, w in settings.items()))

    def noise_curve(
        self,
        sigmas: Sequence[float] = SIGMAS,
        count: int = NOISED,
        seed: int = 0,
        done: Callable[[float], None] = lambda networks: None,
    ) -> Curve:
        """The baseline that every generator must beat, the generator ``noise`` at several sizes.

        Args:
            sigmas: see :func:`~zoogen.generators.baselines.noisy_members`.
            count: networks of each.
            seed: of members and noise.
            done: called with the number of networks just judged.
        """
        points = []
        for sigma in sigmas:
            points.append(self.point(self.noisy_members(sigma, count, seed), f"{sigma:g}"))
            done(count)
        return Curve("noise", tuple(points))

    def noisy_members(
        self, sigma: float, count: int, seed: int = 0, member: int | None = None
    ) -> Float[np.ndarray, "n p"]:
        """Training members with noise: random ones, or copies of one.

        Args:
            sigma: see :func:`~zoogen.generators.baselines.noised`.
            count: how many.
            seed: of the choice and the noise.
            member: row of the training member; random ones without it.
        """
        members = self._train if member is None else self._train[member : member + 1]
        return noisy_members(self.network.spec, members, sigma, count, seed)

    def usable(self, weights: Float[np.ndarray, "n p"]) -> Bool[np.ndarray, " n"]:
        """Networks whose weights, and what they say of probes and test images, are finite."""
        finite = np.isfinite(np.square(weights, dtype=np.float64).sum(axis=1))
        for images in (self._probes, self._exam.images):
            rows = np.flatnonzero(finite)
            finite[rows] = finite_outputs(self.network, weights[rows], images)
        return finite


def checked(spec: ParamSpec, weights: Shaped[np.ndarray, "n p"]) -> Float[np.ndarray, "n p"]:
    """The weights as a float array of the right shape.

    Raises:
        ConfigError: if they are none of the network.
    """
    values = np.asarray(weights, np.float32)
    if values.ndim != 2 or values.shape[1] != spec.size:
        raise ConfigError(
            f"evaluation: found weights of shape {list(values.shape)}, expected [n, {spec.size}] "
            "for the network of the population; sample from a generator fitted on it"
        )
    return values


def _members(
    spec: ParamSpec, weights: Float[np.ndarray, "n p"], part: str
) -> Float[np.ndarray, "n p"]:
    values = checked(spec, weights)
    if len(values) < SMALLEST:
        raise ConfigError(
            f"evaluation: found {len(values)} {part} members, expected at least {SMALLEST}; train "
            "more runs, or split them otherwise"
        )
    if not np.isfinite(values).all():
        bad = int((~np.isfinite(values).all(axis=1)).sum())
        raise ConfigError(
            f"evaluation: {bad} of {len(values)} {part} members have weights that are not finite; "
            "select members that did not diverge"
        )
    return values
