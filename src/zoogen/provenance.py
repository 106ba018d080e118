"""Where and with what a zoo was made: versions, flags, device."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from typing import Any

import jax

from zoogen.version import __version__

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "zarr", "tensorstore")


def provenance() -> dict[str, Any]:
    """Plain JSON that tells this process from others that could give other bits."""
    device = jax.local_devices()[0]
    return {
        "zoogen": __version__,
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in _PACKAGES},
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "matmul_precision": str(jax.config.values["jax_default_matmul_precision"]),
        "prng": str(jax.config.values["jax_default_prng_impl"]),
        "device": {
            "platform": device.platform,
            "kind": device.device_kind,
            "count": jax.local_device_count(),
            "machine": platform.machine(),
        },
    }
