"""Models on weights: pure functions that read the weights of other networks."""

from zoogen.models.augment import (
    Partners,
    matched_partners,
    mix,
    mixup,
    random_equivalents,
)
from zoogen.models.equivariant import (
    STACKS,
    Stack,
    mean_of_networks,
    network_model,
    parameter_model,
)
from zoogen.models.graphs import Frame, frame_of, graph_of
from zoogen.models.leaves import permutable_terminals
from zoogen.models.message_passing import GraphStack, graph_model, graph_model_of
from zoogen.models.model import WeightModel
from zoogen.models.signals import SignalStack, signal_model, signal_parameter_model
from zoogen.models.standard import Standard, entry_orbits, fit_standard, standardise
from zoogen.models.token_models import TokenStack, token_model, token_parameter_model
from zoogen.models.tokens import Tokens, detokenise, tokenise, tokens_of
from zoogen.models.unions import (
    GraphBatch,
    GraphStandard,
    fit_graph_standard,
    standardise_graphs,
    unite,
)

__all__ = [
    "STACKS",
    "Frame",
    "GraphBatch",
    "GraphStack",
    "GraphStandard",
    "Partners",
    "SignalStack",
    "Stack",
    "Standard",
    "TokenStack",
    "Tokens",
    "WeightModel",
    "detokenise",
    "entry_orbits",
    "fit_graph_standard",
    "fit_standard",
    "frame_of",
    "graph_model",
    "graph_model_of",
    "graph_of",
    "matched_partners",
    "mean_of_networks",
    "mix",
    "mixup",
    "network_model",
    "parameter_model",
    "permutable_terminals",
    "random_equivalents",
    "signal_model",
    "signal_parameter_model",
    "standardise",
    "standardise_graphs",
    "token_model",
    "token_parameter_model",
    "tokenise",
    "tokens_of",
    "unite",
]
