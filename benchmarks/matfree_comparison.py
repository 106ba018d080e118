"""matfree beside zoogen's own Lanczos and Hutchinson: exactness, failures side by side, speed.

    pip install matfree==0.6.3
    python benchmarks/matfree_comparison.py     # about a minute

Both get the same matrices and the same start and probe vectors, drawn on the host, in single
precision, as a measurement uses them: inside one compiled program that maps over members, with the
eigensolver on the host in double precision. Speed is that of the Hessians of MLPs on random
images, in rounds that alternate.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matfree import decomp, stochtrace

sys.path.insert(0, str(Path(__file__).parent))
import machine

from zoogen.config import NetworkConfig
from zoogen.landscape.curvature import hessian_product, lanczos, sign_words, trace_samples
from zoogen.landscape.performance import cross_entropy
from zoogen.landscape.spectrum import ritz_extremes
from zoogen.landscape.stderr import mean_and_stderr
from zoogen.networks import build_network

SEEDS, STEPS, PROBES, ROUNDS = (0, 1, 2), 20, 32, 7
MEMBERS, EXAMPLES, IMAGE, CLASSES = 16, 512, (1, 8, 8), 10
SPURIOUS = 1e-3  # of the largest eigenvalue: a Ritz value farther from all eigenvalues is none

Product = Callable[[jax.Array], jax.Array]
Form = tuple[jax.Array, jax.Array]


# --- the two -------------------------------------------------------------------------------------


def matfree_form(product: Product, start: jax.Array, steps: int) -> Form:
    """Diagonal and off-diagonal of the tridiagonal form, the last entry coupling to the rest."""
    found = decomp.tridiag_sym(steps, materialize=False)(product, start)
    alpha, beta = found.J_small
    return alpha, jnp.append(beta, jnp.linalg.norm(found.residual))


def matfree_trace(product: Product, signs: jax.Array, probes: int) -> tuple[jax.Array, jax.Array]:
    """Mean and standard error; the sampler hands on what the host drew."""
    estimate = stochtrace.estimator_monte_carlo_mean_and_sem(
        stochtrace.monte_carlo_trace(), lambda bits: _rademacher(bits, probes)
    )
    return estimate(product, signs)


def _rademacher(bits: jax.Array, probes: int) -> jax.Array:
    k = jnp.arange(probes)
    bit = (bits[k // 32] >> (k % 32).astype(jnp.uint32)[:, None]) & jnp.uint32(1)
    return jnp.where(bit == 1, jnp.float32(1), jnp.float32(-1))


def zoogen_trace(product: Product, signs: jax.Array, probes: int) -> tuple[jax.Array, jax.Array]:
    return mean_and_stderr(trace_samples(product, signs, probes))


FORMS: dict[str, Callable[[Product, jax.Array, int], Form]] = {
    "zoogen": lanczos, "matfree": matfree_form,
}  # fmt: skip
TRACES = {"zoogen": zoogen_trace, "matfree": matfree_trace}


# --- exactness -----------------------------------------------------------------------------------

SPECTRA = {
    "indefinite": (np.linspace(-3, 5, 40), 40),
    "negative": (np.linspace(-7, -1, 40), 40),
    "outliers": (np.r_[np.linspace(0, 1, 37), 30, 50, 70], 20),
    # From here on the Krylov space is exhausted before the steps are.
    "rank 3 of 40": (np.r_[np.zeros(37), 1, 2, 3], STEPS),
    "two values": (np.r_[np.full(20, -3.0), np.full(20, -1.0)], STEPS),
    "multiple of identity": (np.full(40, -2.0), STEPS),
    # A member whose hidden units are all dead: only the output biases of 10 classes bend the loss.
    "dead network": (np.r_[np.zeros(31), np.full(9, 0.1)], STEPS),
    "zero": (np.zeros(40), STEPS),
}


def rotated(spectrum: np.ndarray, seed: int) -> np.ndarray:
    """Symmetric matrix of a given spectrum in a random basis."""
    basis, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(len(spectrum),) * 2))
    return ((basis * spectrum) @ basis.T).astype(np.float32)


def run_forms(form: Any, matrices: np.ndarray, steps: int, batched: bool = False) -> Any:
    """Forms of several matrices in one program, mapped one after another or side by side."""
    start = jnp.asarray(np.random.default_rng(0).normal(size=matrices.shape[-1]), jnp.float32)

    def of_one(matrix: jax.Array) -> Form:
        return form(lambda v: matrix @ v, start, steps)

    over = jax.vmap(of_one) if batched else partial(jax.lax.map, of_one)
    return [np.asarray(each) for each in jax.jit(over)(jnp.asarray(matrices))]


def exactness(form: Any) -> dict[str, Any]:
    """Over three random bases: errors of both ends, and Ritz values that are no eigenvalues."""
    found = {}
    for name, (spectrum, steps) in SPECTRA.items():
        matrices = np.stack([rotated(spectrum, seed) for seed in SEEDS])
        exact = np.linalg.eigvalsh(matrices.astype(np.float64))
        ends = ritz_extremes(*run_forms(form, matrices, steps), top=steps)
        scale = np.abs(spectrum).max() or 1.0
        nearest = np.abs(ends.top[:, :, None] - exact[:, None]).min(axis=2)
        found[name] = {
            "top_error": largest((ends.top[:, 0] - exact[:, -1]) / scale),
            "lowest_error": largest((ends.lowest - exact[:, 0]) / scale),
            "spurious": int((~(nearest <= SPURIOUS * scale + ends.top_residual)).sum()),
            "of": nearest.size,
            "finite": bool(np.isfinite(ends.top).all()),
        }
    return found


def largest(errors: np.ndarray) -> float | None:
    """Largest error; nothing where one is not finite (JSON has no NaN)."""
    return float(np.abs(errors).max()) if np.isfinite(errors).all() else None


def isolation(form: Any) -> dict[str, Any]:
    """Whether members that are not finite change the forms of their neighbours, in any bit."""
    matrices = np.stack([rotated(np.linspace(-3, 5, 40), seed) for seed in range(4)])
    bad = matrices.copy()
    bad[1], bad[2] = np.nan, 1e30
    found = {}
    for name, batched in (("map", False), ("vmap", True)):
        alone, beside = (run_forms(form, each, STEPS, batched) for each in (matrices, bad))
        equal = all(
            np.array_equal(a[[0, 3]], b[[0, 3]]) for a, b in zip(alone, beside, strict=True)
        )
        told = not np.isfinite(beside[0][1]).all()
        found[name] = {"neighbours_unchanged": equal, "nan_shows": told}
    return found


# --- speed ---------------------------------------------------------------------------------------


def program(name: str, width: int) -> tuple[Any, tuple[np.ndarray, ...]]:
    """Trace and form of the Hessians of several MLPs, not compiled yet, and its arguments."""
    network = build_network(NetworkConfig(family="mlp", width=width, depth=2), IMAGE, CLASSES)
    rng, size = np.random.default_rng(0), network.spec.size
    images = jnp.asarray(rng.normal(size=(EXAMPLES, *IMAGE)), jnp.float32)
    labels = jnp.asarray(rng.integers(0, CLASSES, EXAMPLES))

    def of_one(given: tuple[jax.Array, ...]) -> Any:
        w, start, signs = given
        product = hessian_product(
            lambda w: cross_entropy(network.apply(network.spec.unflatten(w), images), labels), w
        )
        return TRACES[name](product, signs, PROBES), FORMS[name](product, start, STEPS)

    weights, starts = rng.normal(size=(2, MEMBERS, size)).astype(np.float32)
    bits = rng.integers(0, 2**32, (MEMBERS, sign_words(PROBES), size), dtype=np.uint32)
    return jax.jit(lambda *given: jax.lax.map(of_one, given)), (weights / 8, starts, bits)


def speed(width: int) -> dict[str, Any]:
    """Seconds to compile, and seconds per member in alternating rounds."""
    compiled, seconds = {}, {name: [] for name in FORMS}
    facts: dict[str, Any] = {name: {} for name in FORMS}
    for name in FORMS:
        traced, given = program(name, width)
        begin = time.perf_counter()
        compiled[name] = traced.lower(*given).compile()
        facts[name]["compile_seconds"] = time.perf_counter() - begin
    for _ in range(ROUNDS):
        for name, run in compiled.items():
            begin = time.perf_counter()
            found = jax.block_until_ready(run(*given))
            seconds[name].append((time.perf_counter() - begin) / MEMBERS)
            facts[name]["found"] = found
    pairs = zip(seconds["matfree"], seconds["zoogen"], strict=True)
    (trace, stderr), (alpha, beta) = facts["zoogen"].pop("found")
    (other, other_stderr), (other_alpha, other_beta) = facts["matfree"].pop("found")
    tops = [ritz_extremes(*map(np.asarray, form), top=1).top[:, 0]
            for form in ((alpha, beta), (other_alpha, other_beta))]  # fmt: skip
    return {
        "parameters": given[0].shape[1],
        **{name: facts[name] | {"seconds_per_member": machine.summary(seconds[name])}
           for name in FORMS},
        "matfree_over_zoogen": sorted(a / b for a, b in pairs),
        "largest_difference": {
            "trace": float(np.max(np.abs(trace - other) / np.abs(trace))),
            "top": float(np.max(np.abs(tops[0] - tops[1]) / np.abs(tops[0]))),
            "stderr_ratio": float(np.median(other_stderr / stderr)),
        },
    }  # fmt: skip


def main() -> None:
    """Compare, print one line a finding, and write the result."""
    result = {
        "machine": machine.describe(),
        "matfree": metadata.version("matfree"),
        "exactness": {name: exactness(form) for name, form in FORMS.items()},
        "isolation": {name: isolation(form) for name, form in FORMS.items()},
        "speed": {f"width {width}": speed(width) for width in (16, 48)},
    }
    for name in FORMS:
        for case, found in result["exactness"][name].items():
            print(f"{name:8s} {case:22s} {found}")
        print(f"{name:8s} {result['isolation'][name]}")
    for case, found in result["speed"].items():
        ratios = found["matfree_over_zoogen"]
        print(f"{case}: compile {found['zoogen']['compile_seconds']:.2f} s zoogen, "
              f"{found['matfree']['compile_seconds']:.2f} s matfree; run matfree / zoogen "
              f"{ratios[0]:.2f} to {ratios[-1]:.2f}; {found['largest_difference']}")  # fmt: skip
    print(machine.write("matfree_comparison", result))


if __name__ == "__main__":
    main()
