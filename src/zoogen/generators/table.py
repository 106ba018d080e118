"""The table of generators."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoogen.generators.generator import Generator
from zoogen.generators.path import Path
from zoogen.lazy import Deferred

if TYPE_CHECKING:
    from zoogen.generators import baselines, d2nwg, pca_flow, predicted, weight_flow
else:  # a config is checked against the table before JAX is imported
    baselines, d2nwg, pca_flow, predicted, weight_flow = (
        Deferred(f"zoogen.generators.{name}")
        for name in ("baselines", "d2nwg", "pca_flow", "predicted", "weight_flow")
    )

_PATH = Path()._asdict()
_LEAST = {"path_steps": 1, "noise": 0, "spread": 0}
_SIZES = dict.fromkeys(("channels", "depth", "heads", "rank", "shots", "inducing"), 1)

GENERATORS: dict[str, Generator] = {
    "permuted": Generator(
        "training members under random permutations: copies",
        baselines.keep_members, baselines.permuted_copies,
    ),
    "noise": Generator(
        "training members with Gaussian noise, sigma times each tensor's root mean square",
        baselines.keep_members, baselines.noisy_copies, {"sigma": 0.1}, least={"sigma": 0},
        sampling=("sigma",),
    ),
    "average": Generator(
        "means of several training members, aligned with the first of them, or raw",
        baselines.keep_members, baselines.means_of_members, {"members": 2, "aligned": True},
        least={"members": 2}, sampling=("members", "aligned"),
    ),
    "gaussian": Generator(
        "independent normal parameters with the means and deviations of training members",
        baselines.fit_gaussian, baselines.sample_gaussian, {"aligned": True},
    ),
    "pca-gaussian": Generator(
        "a Gaussian over principal components of aligned training members",
        baselines.fit_pca, baselines.sample_pca, {"components": 256},
    ),
    "kde": Generator(
        "kernel density over principal components of the aligned training members that fit their "
        "training images best (Schürholt et al., Hyper-representations, 2022: top 30 %)",
        baselines.fit_kde, baselines.sample_kde, {"components": 64, "share": 0.3},
    ),
    "train": Generator(
        "fresh training of new members by the recipe of the population: the honest competitor",
        baselines.nothing, baselines.freshly_trained,
    ),
    "pca-flow": Generator(
        "flow matching over principal components of aligned members (Gupta et al., "
        "DeepWeightFlow, 2026)",
        pca_flow.fit, pca_flow.sample,
        {"components": 256, "width": 512, "depth": 4, **_PATH},
        least=_LEAST, sampling=tuple(_PATH), conditional=True, trained=True,
    ),
    "d2nwg": Generator(
        "diffusion of codes of an autoencoder of weights, told the data set (Soro et al., "
        "Diffusion-based neural network weights generation, 2025)",
        d2nwg.fit, d2nwg.sample,
        {"chunks": "whole", "piece": 512, "latent": 64, "hidden": 256, "kl": 1e-6, "share": 0.5,
         "embedding": 16, "shots": 5, "inducing": 8, "contrast": 0.0, "width": 512, "depth": 4,
         "sampling_steps": 1000, "guidance": 1.0, "aligned": True, "normalisation": "tensor"},
        least=dict.fromkeys(
            ("piece", "latent", "hidden", "shots", "inducing", "width", "sampling_steps"), 1
        ) | {"embedding": 0, "depth": 0},
        sampling=("sampling_steps", "guidance", "shots"),
        conditional=True, trained=True,
    ),
    "flow": Generator(
        "equivariant flow matching over weights, by a field over units, layers or tokens",
        weight_flow.fit, weight_flow.sample,
        {"field": "units", "channels": 96, "depth": 4, "heads": 4, "rank": 48,
         "coupling": "independent", "function_weight": 1.0, "gradients": False,
         "canonical": False, "embedding": 0, "shots": 5, "inducing": 8,
         **_PATH, "path_steps": 96, "method": "sde", "noise": 16.0, "spread": 1.5},
        least={**_LEAST, **_SIZES, "embedding": 0, "function_weight": 0},
        sampling=(*_PATH, "shots"), conditional=True, trained=True,
    ),
    "hypernetwork": Generator(
        "a graph hypernetwork: weights predicted from the architecture and random numbers, fitted "
        "by the loss of the predicted networks (Knyazev et al., GHN-2, 2021), with or without "
        "magnitude-invariant parametrisation (Ortiz et al., 2023)",
        predicted.fit_hypernetwork, predicted.sample_hypernetwork,
        {"channels": 32, "rounds": 3, "hidden": 128, "latent": 16, "stabiliser": "mip",
         "images": 64, "widths": []},
        conditional=True, trained=True,
    ),
}  # fmt: skip
"""Name → :class:`Generator`."""
