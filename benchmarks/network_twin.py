"""The eager twin of the network, the yardstick of every claim. It lives in the package."""

from ivan.benchmark.twin import EagerBlock, EagerDenseBlock, EagerIVAN

__all__ = ["EagerBlock", "EagerDenseBlock", "EagerIVAN"]
