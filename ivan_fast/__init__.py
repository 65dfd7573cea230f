"""Fast, memory-saving ops and modules for invertible networks."""

from ivan_fast import ops, reference

__all__ = ["ops", "reference"]
