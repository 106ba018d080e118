"""Ways to compute a convolution of many small members, and the choice between them.

Mapping `lax.conv` over members gives grouped convolutions, and on CPU it leaves the fast path in
any loop. Each formulation computes the same values; which is fastest depends on the backend and
the geometry, so it is chosen by measurement: on CPU once for all by `benchmarks/formulations.py`,
elsewhere by timing the candidates on first use and keeping the winner in a cache file.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import platformdirs
from jaxtyping import Array, Float

from zoogen import population

Maps = Float[Array, "c h w b"]
Kernels = Float[Array, "o i kh kw"]
Product = Callable[[Maps, Kernels, int, int], Maps]

_CHWN = ("CHWN", "OIHW", "CHWN")


def convolution(x: Maps, weight: Kernels, stride: int, padding: int) -> Maps:
    """The ordinary convolution; a grouped one under ``vmap`` over members."""
    pads = [(padding, padding)] * 2
    return jax.lax.conv_general_dilated(x, weight, (stride, stride), pads, dimension_numbers=_CHWN)


def taps(x: Maps, weight: Kernels, stride: int, padding: int) -> Maps:
    """One product per kernel position, summed: nothing is copied but strided slices."""
    _, _, height, width = weight.shape
    positions = jnp.moveaxis(weight.reshape(*weight.shape[:2], height * width), -1, 0)
    slices = _slices(x, height, width, stride, padding)
    products = [jnp.einsum("oi,iyxb->oyxb", *pair) for pair in zip(positions, slices, strict=True)]
    return sum(products[1:], start=products[0])


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def patches(x: Maps, weight: Kernels, stride: int, padding: int) -> Maps:
    """All kernel positions side by side and one product, with a gradient written by hand.

    The patches are kernel-position-major, so that each position is one contiguous block. Orders
    of factors are those that CPUs compute fastest; above all the gradient of the weights is
    patches × gradientᵀ: the other order, which JAX would derive, is up to twice as slow.
    """
    return _forward(x, weight, stride, padding)[0]


def _forward(
    x: Maps, weight: Kernels, stride: int, padding: int
) -> tuple[Maps, tuple[Array, Kernels, Maps]]:
    stacked = _stack(weight.shape[2], weight.shape[3], stride, padding, x)
    columns = stacked.reshape(stacked.shape[0], -1)
    product = jax.lax.dot_general(_kernel_columns(weight), columns, (((0,), (0,)), ((), ())))
    return product.reshape(-1, *stacked.shape[1:]), (columns, weight, x)


def _backward(
    stride: int, padding: int, saved: tuple[Array, Kernels, Maps], gradient: Maps
) -> tuple[Maps, Kernels]:
    columns, weight, x = saved
    out, channels, height, width = weight.shape
    flat = gradient.reshape(out, -1)
    of_weight = jax.lax.dot_general(columns, flat, (((1,), (1,)), ((), ())))
    of_columns = _kernel_columns(weight) @ flat
    unstack = jax.linear_transpose(partial(_stack, height, width, stride, padding), x)
    (of_x,) = unstack(of_columns.reshape(-1, *gradient.shape[1:]))
    return of_x, of_weight.reshape(height, width, channels, out).transpose(3, 2, 0, 1)


patches.defvjp(_forward, _backward)


def _stack(height: int, width: int, stride: int, padding: int, x: Maps) -> Maps:
    return jnp.concatenate(_slices(x, height, width, stride, padding), axis=0)


def _kernel_columns(weight: Kernels) -> Float[Array, "entry o"]:
    """One column per kernel, its entries in the order of the patches: ``kh kw i``."""
    return weight.transpose(2, 3, 1, 0).reshape(-1, weight.shape[0])


def _slices(x: Maps, height: int, width: int, stride: int, padding: int) -> list[Maps]:
    """What each kernel position sees, row by row of the kernel."""
    if padding:
        x = jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    rows = (x.shape[1] - height) // stride * stride + 1
    columns = (x.shape[2] - width) // stride * stride + 1
    return [
        x[:, i : i + rows : stride, j : j + columns : stride]
        for i in range(height)
        for j in range(width)
    ]


FORMULATIONS: dict[str, Product] = {
    "patches": patches,
    "taps": taps,
    "convolution": convolution,
}


class Geometry(NamedTuple):
    """Everything static about a convolution: sizes of input, kernel, stride and padding."""

    channels: int
    height: int
    width: int
    batch: int
    out: int
    kernel_height: int
    kernel_width: int
    stride: int
    padding: int

    @classmethod
    def of(cls, x: tuple[int, ...], weight: tuple[int, ...], stride: int, padding: int) -> Geometry:
        """The geometry of maps ``[c h w b]`` under kernels ``[o i kh kw]``."""
        channels, height, width, batch = x
        out, _, rows, columns = weight
        return cls(channels, height, width, batch, out, rows, columns, stride, padding)

    def __str__(self) -> str:
        return (
            f"{self.channels}x{self.height}x{self.width}x{self.batch}"
            f"-{self.out}k{self.kernel_height}x{self.kernel_width}s{self.stride}p{self.padding}"
        )


# Fastest for all thirteen geometries of benchmarks/results/formulations_cpu.json, by 1.4× to 2.6×.
CPU_WINNER = "patches"

_CHOSEN: dict[str, str] = {}


def chosen() -> dict[str, str]:
    """Geometry → formulation of every convolution that this process has built so far."""
    return dict(_CHOSEN)


def choose(geometry: Geometry) -> str:
    """The fastest formulation of a convolution on this backend.

    Args:
        geometry: of the convolution.

    Returns:
        A key of :data:`FORMULATIONS`: on CPU :data:`CPU_WINNER`, elsewhere from the cache file,
        or by timing the candidates now (seconds), which fills the cache.
    """
    device = jax.local_devices()[0]
    on_cpu = device.platform == "cpu"
    winner = CPU_WINNER if on_cpu else _measured(device.device_kind, geometry)
    _CHOSEN[str(geometry)] = winner
    return winner


@lru_cache(maxsize=1024)
def _measured(device_kind: str, geometry: Geometry) -> str:
    """The winner from the cache file, or from a measurement that is then kept there."""
    key = f"{device_kind} jaxlib {metadata.version('jaxlib')} {geometry}"
    known = _read_cache()
    if known.get(key) not in FORMULATIONS:
        seconds = time_candidates(geometry)
        known = _read_cache() | {key: min(seconds, key=seconds.__getitem__)}
        _write_cache(known)
    return known[key]


def time_candidates(geometry: Geometry, steps: int = 20, repeats: int = 5) -> dict[str, float]:
    """Time every formulation as training uses it: in a loop, with gradients, over members.

    Args:
        geometry: of the convolution.
        steps: gradient steps per run.
        repeats: runs per candidate, interleaved; the fastest counts.

    Returns:
        Formulation → seconds per member-step.
    """
    # Layers are built while JAX traces; a thread of its own has no trace and runs at once.
    with ThreadPoolExecutor(1) as executor:
        return executor.submit(_time_candidates, geometry, steps, repeats).result()


def _time_candidates(geometry: Geometry, steps: int, repeats: int) -> dict[str, float]:
    devices = jax.local_devices()
    members = len(devices) * (1 if devices[0].platform == "cpu" else population.DEFAULT_CHUNK)
    weights, x = _inputs(geometry, members)
    programs = {
        name: population.over_members(partial(_train_one_layer, product, geometry, steps))
        for name, product in FORMULATIONS.items()
    }
    best = dict.fromkeys(programs, float("inf"))
    for _ in range(repeats + 1):
        for name, program in programs.items():
            begin = time.perf_counter()
            jax.block_until_ready(program(weights, x))
            best[name] = min(best[name], time.perf_counter() - begin)
    return {name: seconds / steps / members for name, seconds in best.items()}


def _inputs(geometry: Geometry, members: int) -> tuple[Array, Array]:
    c, h, w, b, o, kh, kw, _, _ = geometry
    key = jax.random.key(0)
    return jax.random.normal(key, (members, o, c, kh, kw)), jax.random.normal(key, (c, h, w, b))


def _train_one_layer(
    product: Product, geometry: Geometry, steps: int, weight: Kernels, x: Maps
) -> Kernels:
    def loss(arguments: tuple[Kernels, Maps]) -> Array:
        weight, x = arguments
        return jnp.mean(product(x, weight, geometry.stride, geometry.padding) ** 2)

    def step(_: Array, carry: tuple[Kernels, Maps]) -> tuple[Kernels, Maps]:
        gradient = jax.grad(loss)(carry)
        return jax.tree.map(lambda value, g: value - 1e-3 * g, carry, gradient)

    return jax.lax.fori_loop(0, steps, step, (weight, x))[0]


def _cache_file() -> Path:
    return Path(platformdirs.user_cache_dir("zoogen")) / "formulations.json"


def _read_cache() -> dict[str, str]:
    """What earlier processes measured; an absent or damaged file is an empty cache."""
    try:
        content = json.loads(_cache_file().read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _write_cache(content: dict[str, str]) -> None:
    """Replace the file at once; without a writable cache every process measures again."""
    path = _cache_file()
    temporary = path.with_suffix(f".{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(content, indent=1, sort_keys=True))
        temporary.replace(path)
    except OSError:
        return
