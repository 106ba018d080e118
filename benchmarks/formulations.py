"""Times every formulation of a convolution on this backend: the grounds of the choice on CPU.

    python benchmarks/formulations.py

Each geometry is trained as a layer of its own (forward, gradients of weights and input, update) in
a loop over steps, over as many members as run side by side: the setting in which zoogen uses it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import jax
import machine

from zoogen import population
from zoogen.networks.formulations import FORMULATIONS, Geometry, choose, time_candidates

# name → channels, height, width, batch, out, kernel height, kernel width, stride, padding
GEOMETRIES = {
    "cnn conv0": Geometry(1, 28, 28, 64, 16, 3, 3, 2, 0),
    "cnn conv1": Geometry(16, 13, 13, 64, 16, 3, 3, 2, 0),
    "cnn conv2": Geometry(16, 6, 6, 64, 16, 3, 3, 2, 0),
    "narrow cnn conv1": Geometry(4, 13, 13, 64, 4, 3, 3, 2, 0),
    "wide cnn conv1": Geometry(64, 13, 13, 64, 64, 3, 3, 2, 0),
    "same cnn conv1": Geometry(16, 14, 14, 64, 16, 3, 3, 2, 1),
    "lenet conv0": Geometry(1, 28, 28, 64, 8, 5, 5, 1, 0),
    "lenet conv1": Geometry(8, 12, 12, 64, 6, 5, 5, 1, 0),
    "lenet conv2": Geometry(6, 4, 4, 64, 4, 2, 2, 1, 0),
    "digits cnn conv0": Geometry(1, 8, 8, 64, 16, 3, 3, 2, 1),
    "stride 1": Geometry(16, 14, 14, 64, 16, 3, 3, 1, 1),
    "pointwise": Geometry(16, 14, 14, 64, 16, 1, 1, 1, 0),
    "large batch": Geometry(16, 13, 13, 512, 16, 3, 3, 2, 0),
}


def main() -> None:
    """Print the table and write ``results/formulations_BACKEND.json``."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3, help="measurements per geometry")
    rounds = parser.parse_args().rounds
    population.use_all_cores()
    print(f"{'layer':18s}{'geometry':28s}" + "".join(f"{name:>13s}" for name in FORMULATIONS))
    layers = {name: measure(name, geometry, rounds) for name, geometry in GEOMETRIES.items()}
    content = {
        "machine": machine.describe(),
        "device": jax.local_devices()[0].device_kind,
        "devices": jax.local_device_count(),
        "unit": "microseconds per member-step",
        "layers": layers,
    }
    print(machine.write(f"formulations_{jax.default_backend()}", content))


def measure(name: str, geometry: Geometry, rounds: int) -> dict[str, Any]:
    """One geometry, every formulation, several times."""
    runs = [time_candidates(geometry) for _ in range(rounds)]
    times = {
        candidate: machine.summary([1e6 * run[candidate] for run in runs])
        for candidate in FORMULATIONS
    }
    best = [times[candidate]["best"] for candidate in FORMULATIONS]
    row = "".join(f"{time:13.1f}" for time in best)
    print(f"{name:18s}{geometry!s:28s}{row}", flush=True)
    fastest = min(times, key=lambda candidate: times[candidate]["best"])
    return {
        "geometry": str(geometry),
        "times": times,
        "fastest": fastest,
        "chosen": choose(geometry),
    }


if __name__ == "__main__":
    main()
