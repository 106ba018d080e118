"""The config: a typed schema, read from TOML, changed by overrides, written as canonical JSON.

A config describes one zoo. Every hyper-parameter stands once in ``[data]``, ``[network]`` or
``[train]``; ``[grid]`` names those that vary.
"""

from zoogen.config.axes import Range, Scalar
from zoogen.config.draws import Draw, RandomConfig
from zoogen.config.files import (
    canonical_json,
    changed,
    config_hash,
    load_config,
    load_data_config,
    load_table,
    parse_config,
    parse_options,
    refuse_other_kind,
)
from zoogen.config.grid import GridConfig
from zoogen.config.schema import (
    HYPER_PARAMETERS,
    LATER_PARAMETERS,
    PER_MEMBER_PARAMETERS,
    Config,
    validated,
)
from zoogen.config.search import Draws
from zoogen.config.sections import (
    FIRST_GROUPS,
    FIT_GROUPS,
    DataConfig,
    LandscapeConfig,
    NetworkConfig,
    PhasesConfig,
    Section,
    TrainConfig,
)

__all__ = [
    "FIRST_GROUPS",
    "FIT_GROUPS",
    "HYPER_PARAMETERS",
    "LATER_PARAMETERS",
    "PER_MEMBER_PARAMETERS",
    "Config",
    "DataConfig",
    "Draw",
    "Draws",
    "GridConfig",
    "LandscapeConfig",
    "NetworkConfig",
    "PhasesConfig",
    "RandomConfig",
    "Range",
    "Scalar",
    "Section",
    "TrainConfig",
    "canonical_json",
    "changed",
    "config_hash",
    "load_config",
    "load_data_config",
    "load_table",
    "parse_config",
    "parse_options",
    "refuse_other_kind",
    "validated",
]
