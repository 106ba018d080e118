"""Shared fixtures: devices, and tiny zoos that are generated once per session."""

from __future__ import annotations

from zoogen.population import use_all_cores

use_all_cores()  # before anything starts JAX
