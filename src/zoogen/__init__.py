"""zoogen: a factory and a library for populations of trained neural networks.

Example:
    >>> import zoogen
    >>> plan = zoogen.plan("configs/digits_mlp.toml")          # doctest: +SKIP
    >>> zoo = zoogen.generate(plan, "zoos/digits_mlp.zarr")    # doctest: +SKIP
    >>> zoo.members.groupby("phase").test_accuracy.mean()      # doctest: +SKIP
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from zoogen.version import __version__

if TYPE_CHECKING:
    from zoogen import phases
    from zoogen.config import Config, load_config
    from zoogen.errors import (
        ConfigError,
        ConflictError,
        CorruptZooError,
        DataUnavailableError,
        FormatVersionError,
        NotFoundError,
        StorageError,
        ZoogenError,
    )
    from zoogen.factory import generate, label, measure, plan, refine
    from zoogen.networks import Network, build_network
    from zoogen.params import ParamSpec
    from zoogen.report import write_report
    from zoogen.store import repair, verify
    from zoogen.zoo import Zoo, open_zoo

_HOME = {
    "Config": "config", "load_config": "config",
    "ConfigError": "errors", "ConflictError": "errors", "CorruptZooError": "errors",
    "DataUnavailableError": "errors", "FormatVersionError": "errors", "NotFoundError": "errors",
    "StorageError": "errors", "ZoogenError": "errors",
    "generate": "factory", "label": "factory", "measure": "factory", "plan": "factory",
    "refine": "factory",
    "Network": "networks", "build_network": "networks", "ParamSpec": "params",
    "write_report": "report", "repair": "store", "verify": "store", "Zoo": "zoo", "open_zoo": "zoo",
}  # fmt: skip

__all__ = ["__version__", "phases", *_HOME]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that `import zoogen` itself is instant."""
    if name == "phases":
        return import_module("zoogen.phases")
    if name not in _HOME:
        raise AttributeError(f"module 'zoogen' has no attribute {name!r}")
    value = getattr(import_module(f"zoogen.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
