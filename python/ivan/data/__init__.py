"""Images in, slices out: reading, pairing, orienting, normalising, splitting, augmenting and writing.

Everything a file can do wrong is an `ivan.errors.InputError` of one line (file, found, expected, remedy);
everything that goes wrong while writing is an `ivan.errors.RunError`. `docs/data.md` explains the rules.

- `volume`: `read_volume(path, *, allow_constant=False) -> Volume`, float32 `[X, Y, Z]` in RAS order
- `writing`: `write_volume(path, data_ras, like)`, `atomic_file(path)`
- `cases`: `find_cases(root, modalities, *, optional=()) -> CaseList`, `find_cases_in_folders({modality:
  folder})`
- `normalise`: `Scale(low, high)` with `.apply` and `.undo`, `estimate_scale(data, percentile=99.5) -> Scale`
- `planes`: `volume_to_slices(data, plane) -> [S, H, W]`, `slices_to_volume(slices, plane) -> [X, Y, Z]`
- `loading`: `load_case(case, modalities, *, plane="axial", normalise="percentile", percentile=99.5) ->
  LoadedCase`
- `split`: `make_split(cases, *, file=None, validation=0.2, seed=0) -> Split`, `CaseRange(case, start, stop)`
- `augment`: `Augmentation(flips=True, quarter_turns=True, ...)`
- `dataset`: `SliceDataset(ranges, sources, targets, *, training, ...)`, `collate_slices(items)`
- `sampler`: `ShapeBatchSampler(dataset, batch_size, *, shuffle, seed, rank, world_size)`
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ivan.data.augment import Augmentation
    from ivan.data.cases import Case, CaseList, find_cases, find_cases_in_folders
    from ivan.data.dataset import SliceDataset, collate_slices
    from ivan.data.loading import LoadedCase, load_case
    from ivan.data.normalise import Scale, estimate_scale
    from ivan.data.planes import PLANES, slices_to_volume, volume_to_slices
    from ivan.data.sampler import ShapeBatchSampler
    from ivan.data.split import CaseRange, Split, make_split
    from ivan.data.volume import Volume, read_volume
    from ivan.data.writing import atomic_file, write_volume

# Name -> module. Loaded on first use: numpy, torch, nibabel and MONAI must not slow down `ivan --help`.
_HOME = {
    "PLANES": "planes",
    "Augmentation": "augment",
    "Case": "cases",
    "CaseList": "cases",
    "CaseRange": "split",
    "LoadedCase": "loading",
    "Scale": "normalise",
    "ShapeBatchSampler": "sampler",
    "SliceDataset": "dataset",
    "Split": "split",
    "Volume": "volume",
    "atomic_file": "writing",
    "collate_slices": "dataset",
    "estimate_scale": "normalise",
    "find_cases": "cases",
    "find_cases_in_folders": "cases",
    "load_case": "loading",
    "make_split": "split",
    "read_volume": "volume",
    "slices_to_volume": "planes",
    "volume_to_slices": "planes",
    "write_volume": "writing",
}

__all__ = [
    "PLANES",
    "Augmentation",
    "Case",
    "CaseList",
    "CaseRange",
    "LoadedCase",
    "Scale",
    "ShapeBatchSampler",
    "SliceDataset",
    "Split",
    "Volume",
    "atomic_file",
    "collate_slices",
    "estimate_scale",
    "find_cases",
    "find_cases_in_folders",
    "load_case",
    "make_split",
    "read_volume",
    "slices_to_volume",
    "volume_to_slices",
    "write_volume",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"ivan.data.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
