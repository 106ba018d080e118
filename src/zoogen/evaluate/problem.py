"""What a reader of weights is given: samples, their targets, and who may see which."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from zoogen.networks import Network
from zoogen.params import ParamSpec

Kind = Literal["regression", "classification", "edit"]


@dataclass(frozen=True)
class Block:
    """Samples of one spec.

    Attributes:
        network: whose function the weights have.
        rows: which samples they are.
        weights: one row a sample; finite.
    """

    network: Network
    rows: Int[np.ndarray, " m"]
    weights: Float[np.ndarray, "m p"]

    @property
    def spec(self) -> ParamSpec:
        """Names, shapes and symmetries of the weights."""
        return self.network.spec


@dataclass(frozen=True)
class Samples:
    """Members at one or several times of training.

    Attributes:
        table: one row a sample: ``member``, ``cell``, ``seed``, ``cohort``, ``snapshot``, all
            hyper-parameters by dotted key, and whatever else a target is made from.
        blocks: their weights, by spec; every sample is in one block.
        hyper_parameters: columns of ``table`` that say how a member was made and differ between
            samples; a reader may use these, never other columns.
        probes: raw images of the zoo's probe set ``[k c h w]``, which probing readers start from.
        mean, std: per channel, of the training images of the members.
        excluded: reason → how many samples were left out for it.
    """

    table: pd.DataFrame
    blocks: tuple[Block, ...]
    hyper_parameters: tuple[str, ...]
    probes: Float[np.ndarray, "k c h w"]
    mean: Float[np.ndarray, " c"]
    std: Float[np.ndarray, " c"]
    excluded: Mapping[str, int]

    def __len__(self) -> int:
        return len(self.table)


@dataclass(frozen=True)
class Split:
    """Rows of samples; disjoint.

    Attributes:
        train: that a reader is fitted on.
        validation: on which the better of two trials, and the best step of one, is chosen.
        test: on which results are reported, once.
    """

    train: Int[np.ndarray, " n"]
    validation: Int[np.ndarray, " n"]
    test: Int[np.ndarray, " n"]


@dataclass(frozen=True)
class Problem:
    """One task on one split.

    Attributes:
        name: of the target.
        kind: ``regression`` (squared error on the standard scale of the training targets),
            ``classification`` (cross-entropy) or ``edit`` (squared error of what changed networks
            compute).
        samples: what is read.
        targets: one row a sample; numbers, or one column with the number of the class.
        classes: names of the classes; empty for regression.
        split: of the samples.
        canvas: of edits, rows and columns of the image that a changed network shall show.
    """

    name: str
    kind: Kind
    samples: Samples
    targets: Float[np.ndarray, "n t"]
    classes: tuple[str, ...]
    split: Split
    canvas: tuple[int, int] | None = None

    @property
    def outputs(self) -> int:
        """How many numbers a reader returns for a sample: targets, or logits of the classes."""
        return len(self.classes) or self.targets.shape[1]
