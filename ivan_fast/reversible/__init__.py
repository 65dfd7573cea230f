"""Chains of invertible blocks whose backward needs no stored activations."""

from ivan_fast.reversible.guard import InversionDriftWarning
from ivan_fast.reversible.sequential import ReversibleSequential

__all__ = ["InversionDriftWarning", "ReversibleSequential"]
