"""zoogen: a factory and a library for populations of trained neural networks.

Example:
    >>> import zoogen
    >>> plan = zoogen.plan("configs/digits_mlp.toml")          # doctest: +SKIP
    >>> zoo = zoogen.generate(plan, "zoos/digits_mlp.zarr")    # doctest: +SKIP
    >>> zoo.members.groupby("phase").test_accuracy.mean()      # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoogen.lazy import lazily
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
else:
    __getattr__, __dir__ = lazily(__name__, __file__)

__all__ = [
    "Config", "ConfigError", "ConflictError", "CorruptZooError", "DataUnavailableError",
    "FormatVersionError", "Network", "NotFoundError", "ParamSpec", "StorageError", "Zoo",
    "ZoogenError", "__version__", "build_network", "generate", "label", "load_config", "measure",
    "open_zoo", "phases", "plan", "refine", "repair", "verify", "write_report",
]  # fmt: skip
