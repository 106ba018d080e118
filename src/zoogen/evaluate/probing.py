"""Probes: a reader that asks members for their outputs on learned inputs, and sees no weight."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from zoogen.data import normalise
from zoogen.evaluate.fitting import Learner, Part, Parts, Tree
from zoogen.evaluate.functions import answers
from zoogen.evaluate.inputs import same_functions
from zoogen.evaluate.problem import Problem
from zoogen.evaluate.readers import Fitted, Options, Training
from zoogen.evaluate.trained import fit_model
from zoogen.models.heads import initial_mlp, mlp
from zoogen.networks import Network

RANK = 32  # of the linear map from codes to inputs
SCALE_MEMBERS = 64  # of each block, from which the head takes the size of answers
HIDDEN = 256  # units of each hidden layer of the head


def fit_probes(problem: Problem, options: Options, training: Training, seed: int) -> Fitted:
    """Outputs of members on learned inputs, read by a perceptron.

    Inputs are a mean plus codes times a basis. Mean, codes and basis are learned, and begin as
    those of the zoo's probe images by principal components; where there are no images, at random.

    Reference:
        Kahana et al., Deep linear probe generators for weight space learning, 2024. Our generator
        is one linear map where theirs has several.
    """
    blocks = problem.samples.blocks
    same_functions(blocks, "probes")
    networks = tuple(block.network for block in blocks)
    learner = probe_learner(networks, options["probes"], problem.outputs)
    generator = initial_generator(problem, options["probes"], seed)
    parts = [Part(block.rows, block.weights.astype(np.float32)) for block in blocks]
    start = _start(learner, networks, generator, _seen(problem))
    return fit_model(problem, replace(learner, init=start), parts, options, training, seed)


@lru_cache(maxsize=16)
def probe_learner(networks: tuple[Network, ...], probes: int, outputs: int) -> Learner:
    """Learned inputs, the members' functions of them, and a perceptron on their outputs.

    Args:
        networks: of the parts; of one input and output shape.
        probes: learned inputs.
        outputs: numbers per member.
    """
    size = math.prod(networks[0].image_shape)
    sizes = (probes * networks[0].classes, HIDDEN, HIDDEN, outputs)
    rank = min(RANK, size)

    def init(key: Array) -> Tree:
        generator = {
            "mean": jnp.zeros(size), "codes": jnp.zeros((probes, rank)),
            "basis": jnp.zeros((rank, size)),
        }  # fmt: skip
        return {"generator": generator, "head": initial_mlp(key, sizes)}

    def apply(params: Tree, parts: Parts) -> Float[Array, "b o"]:
        return mlp(params["head"], answers_of(networks, params["generator"], parts))

    return Learner(init, apply)


def answers_of(
    networks: tuple[Network, ...], generator: Mapping[str, Array], parts: Parts
) -> Float[Array, "b i"]:
    """Outputs of all members at the generator's inputs, in the order of the parts."""
    flat = generator["mean"] + generator["codes"] @ generator["basis"]
    inputs = flat.reshape(-1, *networks[0].image_shape)
    found = [
        answers(network, weights, inputs)
        for network, weights in zip(networks, parts, strict=True)
        if len(weights)
    ]
    return jnp.concatenate(found)


# ----------------------------------------------------------------------------------------- start
def _start(
    learner: Learner, networks: tuple[Network, ...], generator: Tree, seen: Parts
) -> Callable[[Array], Tree]:
    """Initial parameters with this generator, and a head for answers of the size that it gets."""

    def init(key: Array) -> Tree:
        params = learner.init(key)
        first = jax.tree.map(jnp.asarray, generator)
        size = jnp.sqrt(jnp.square(answers_of(networks, first, seen)).mean()) + 1e-6
        (weight, bias), *rest = params["head"]
        return {"generator": first, "head": [(weight / size, bias), *rest]}

    return init


def _seen(problem: Problem) -> Parts:
    """Some training members of each block."""
    return tuple(
        block.weights[np.isin(block.rows, problem.split.train)][:SCALE_MEMBERS].astype(np.float32)
        for block in problem.samples.blocks
    )


def initial_generator(
    problem: Problem, count: int, seed: int
) -> dict[str, Float[np.ndarray, "..."]]:
    """Mean ``[d]``, codes ``[k r]`` and basis ``[r d]`` of so many first inputs."""
    shape = problem.samples.blocks[0].network.image_shape
    size, rng = math.prod(shape), np.random.default_rng(seed)
    images = np.asarray(problem.samples.probes, np.float32)
    if images.size and images.shape[1:] == shape:
        scale = (jnp.asarray(problem.samples.mean), jnp.asarray(problem.samples.std))
        images = np.asarray(normalise(jnp.asarray(images), *scale))
    else:
        images = rng.uniform(-1, 1, (count, *shape)).astype(np.float32)
    flat = images[rng.permutation(len(images))].reshape(len(images), size)
    mean = flat.mean(axis=0)
    rank = min(RANK, size)
    _, values, basis = np.linalg.svd(flat - mean, full_matrices=False)
    missing = max(0, rank - len(basis))  # there are fewer images than dimensions
    basis = np.pad(basis[:rank], ((0, missing), (0, 0)))
    spread = np.pad(values[:rank], (0, missing)) / math.sqrt(len(flat))
    codes = np.resize((flat - mean) @ basis.T, (count, rank)) / np.maximum(spread, 1e-6)
    codes[len(flat) :] += 0.1 * rng.standard_normal(codes[len(flat) :].shape)  # none is there twice
    start = {"mean": mean, "codes": codes, "basis": basis * spread[:, None]}
    return {name: values.astype(np.float32) for name, values in start.items()}
