"""Models on weights: pure functions that read the weights of other networks."""

from zoogen.models.equivariant import (
    STACKS,
    Stack,
    mean_of_networks,
    network_model,
    parameter_model,
)
from zoogen.models.leaves import permutable_terminals
from zoogen.models.model import WeightModel
from zoogen.models.standard import Standard, entry_orbits, fit_standard, standardise

__all__ = [
    "STACKS",
    "Stack",
    "Standard",
    "WeightModel",
    "entry_orbits",
    "fit_standard",
    "mean_of_networks",
    "network_model",
    "parameter_model",
    "permutable_terminals",
    "standardise",
]
