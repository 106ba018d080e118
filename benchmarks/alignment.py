"""Times the alignment of pairs of members, beside a textbook version that takes one after another.

    python benchmarks/alignment.py

Planted pairs are a random member and the same member with its units in random order: a method
either finds that order or does not. Unrelated pairs show what sweeps cost, and which objective
they end with. The textbook version is coordinate descent from the identity, in NumPy and SciPy.
Sinkhorn matching descends on the same distance by gradients; it is there for other losses, and here
to show what it costs. All run in one thread: products of so few units gain nothing from a second.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import machine
import numpy as np
from scipy.optimize import linear_sum_assignment
from threadpoolctl import threadpool_limits

from zoogen.config import NetworkConfig
from zoogen.networks import build_network
from zoogen.params import Axis, ParamSpec
from zoogen.symmetry import (
    Element,
    apply,
    canonical,
    random_element,
    sinkhorn_matching,
    weight_matching,
)


def multilayer(*sizes: int) -> ParamSpec:
    """A multilayer perceptron of given sizes."""
    axes, incoming = {}, Axis(sizes[0])
    for i, size in enumerate(sizes[1:]):
        units = Axis(size, f"hidden{i}" if i < len(sizes) - 2 else None)
        axes |= {f"layer{i}.weight": (units, incoming), f"layer{i}.bias": (units,)}
        incoming = units
    return ParamSpec.build(axes)


def of_family(family: str, width: int) -> ParamSpec:
    """A network on 28×28 grey images."""
    return build_network(NetworkConfig(family=family, width=width), (1, 28, 28), 10).spec


# name → spec and number of pairs
CASES = {
    "[2,32,32,1]": (multilayer(2, 32, 32, 1), 1000),
    "[784,64,64,10]": (multilayer(784, 64, 64, 10), 50),
    "cnn 16": (of_family("cnn", 16), 200),
    "lenet 8": (of_family("lenet", 8), 200),
}
TEXTBOOK_PAIRS = 50


def main() -> None:
    """Print the table and write ``results/alignment.json``."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3, help="measurements per case, interleaved")
    rounds = parser.parse_args().rounds
    print(
        f"{'network':16s}{'pairs':11s}{'method':10s}{'pairs/s':>8s}{'recovered':>11s}{'gain':>7s}"
    )
    with threadpool_limits(1):
        cases = {name: measure(name, *case, rounds) for name, case in CASES.items()}
    content = {
        "machine": machine.describe(),
        "unit": "pairs per second; gain: mean objective relative to the textbook's on equal pairs",
        "cases": cases,
    }
    print(machine.write("alignment", content))


def measure(name: str, spec: ParamSpec, pairs: int, rounds: int) -> dict[str, Any]:
    """One network: planted and unrelated pairs, both methods, and the two cheap operations."""
    rng = np.random.default_rng(0)
    a = rng.standard_normal((pairs, spec.size), np.float32)
    element = random_element(spec, 0, (pairs,), spread=0)
    planted = apply(spec, element, a)
    unrelated = rng.standard_normal((pairs, spec.size), np.float32)
    report: dict[str, Any] = {"parameters": spec.size, "pairs": pairs}
    for kind, b in (("planted", planted), ("unrelated", unrelated)):
        report[kind] = compare(name, kind, spec, a, b, rounds)
    report["apply"] = rate(lambda: apply(spec, element, a), pairs, rounds)
    report["canonical"] = rate(lambda: canonical(spec, a), pairs, rounds)
    return report


def compare(
    name: str, kind: str, spec: ParamSpec, a: np.ndarray, b: np.ndarray, rounds: int
) -> dict[str, Any]:
    """All methods on the same pairs; the slow ones on the first of them only."""
    few = slice(0, TEXTBOOK_PAIRS)
    methods: dict[str, tuple[Callable[[], Element], int]] = {
        "zoogen": (lambda: weight_matching(spec, a, b).elements, len(b)),
        "textbook": (lambda: textbook(spec, a[few], b[few]), len(b[few])),
        "sinkhorn": (lambda: sinkhorn_matching(spec, a[few], b[few]).elements, len(b[few])),
    }
    methods["sinkhorn"][0]()  # compiles
    seconds: dict[str, list[float]] = {method: [] for method in methods}
    found = {}
    for _ in range(rounds):
        for method, (run, _count) in methods.items():
            begin = time.perf_counter()
            found[method] = run()
            seconds[method].append(time.perf_counter() - begin)
    moved = {m: apply(spec, e, b[: methods[m][1]]) for m, e in found.items()}
    means = {m: float((a[few] * v[few]).sum(axis=1).mean()) for m, v in moved.items()}
    report = {}
    for method, (_, count) in methods.items():
        recovered = float((moved[method] == a[:count]).all(axis=1).mean())
        best = count / min(seconds[method])
        gain = means[method] / means["textbook"]
        share = f"{recovered:11.1%}" if kind == "planted" else " " * 11
        print(f"{name:16s}{kind:11s}{method:10s}{best:8.0f}{share}{gain:7.3f}", flush=True)
        report[method] = {
            "pairs": count,
            "pairs_per_second": best,
            "seconds_per_pair": machine.summary([s / count for s in seconds[method]]),
            "recovered": recovered if kind == "planted" else None,
            "gain": gain,
        }
    return report


def rate(run: Callable[[], Any], members: int, rounds: int) -> dict[str, float]:
    """Members per second of an operation, best of some rounds."""
    seconds = []
    for _ in range(rounds):
        begin = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - begin)
    return {"members_per_second": members / min(seconds)}


def textbook(spec: ParamSpec, a: np.ndarray, b: np.ndarray) -> Element:
    """Weight matching of one pair after another: groups in random order, from the identity."""
    rng = np.random.default_rng(0)
    orders = [descend(spec, *pair, rng) for pair in zip(a, b, strict=True)]
    return Element({group: np.stack([o[group] for o in orders]) for group in spec.groups}, {})


def descend(
    spec: ParamSpec, a: np.ndarray, b: np.ndarray, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Orders of one pair's units, improved group by group until no group gains."""
    orders = {name: np.arange(group.size) for name, group in spec.groups.items()}
    of_a = spec.unflatten(a)
    for _ in range(100):
        changed = False
        for group in rng.permutation(list(spec.groups)):
            others = {name: order for name, order in orders.items() if name != group}
            of_b = spec.unflatten(spec.permute(b, others))
            similarity = sum(
                rows(of_a[p.name], i, spec.groups[group].size)
                @ rows(of_b[p.name], i, spec.groups[group].size).T
                for p in spec.parameters
                for i, axis in enumerate(p.axes)
                if axis.group == group
            )
            order = linear_sum_assignment(similarity, maximize=True)[1]
            units = np.arange(order.size)
            changed |= (
                similarity[units, order].sum() > similarity[units, orders[group]].sum() + 1e-9
            )
            orders[group] = order
        if not changed:
            break
    return orders


def rows(values: np.ndarray, axis: int, units: int) -> np.ndarray:
    """What each unit owns along an axis, blocks included."""
    first = np.moveaxis(values, axis, 0)
    return first.reshape(units, -1)


if __name__ == "__main__":
    main()
