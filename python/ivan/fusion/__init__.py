"""Fusion: two modalities of one patient in one image, by a trained network or by a fixed rule, and back
again.

- `rules`: average, maximum, Laplacian pyramid, wavelet; `fuse_by_rule`, and targets for training without
  labels
- `loss`: `fusion_loss`, training without any target
- `state`: the network's whole output beside the image, from which the sources come back exactly
- `fuser`: how a pair is read and fused, and the results' files
- `job`: `fuse`, what `ivan fuse` does; `decomposition`: `decompose`, what its `--inverse` does
- `measure`: fused images and decompositions in numbers, tables and pictures
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ivan.fusion.decomposition import decompose
    from ivan.fusion.job import fuse

__all__ = ["decompose", "fuse"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from ivan.fusion import decomposition, job

        return getattr(job if name == "fuse" else decomposition, name)
    raise AttributeError(f"module 'ivan.fusion' has no attribute {name!r}")
