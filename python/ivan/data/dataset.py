"""Slices of many cases as a PyTorch data set: decoded once, the same for a given seed, epoch and index."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ivan.data.augment import Augmentation
from ivan.data.cache import CachedCase, check_memory, decode, decode_on_disk, default_memory_limit
from ivan.data.context import check_volume, neighbours
from ivan.data.normalise import Scale
from ivan.data.profile import Profile
from ivan.data.split import CaseRange
from ivan.errors import InputError

CACHES = ("memory", "disk")
_MARGIN = 8  # pixels around the foreground that a crop keeps


class SliceDataset(torch.utils.data.Dataset[dict[str, Any]]):
    """Map-style data set over the slices of case ranges.

    Items are `{"source": [N, H, W] float32, "target": [M, H, W] float32, "case": str, "slice": int}`:
    normalised slices, upright as `ivan.data.volume_to_slices` says; `slice` counts along the plane's RAS
    axis. Where the augmentation changes inputs only, `"source_input"` and `"target_input"` of the same shapes
    are what the forward and the reverse direction start from. With `context` K the sources are followed by
    those of the neighbouring slices, `[N (2K + 1), H, W]` (`ivan.data.context`), also from beyond a range's
    ends.

    For training, nearly empty slices are left out and slices are augmented and cropped; otherwise every
    slice of the ranges comes as it is. An item depends on (seed, epoch, index) alone, not on workers or on
    earlier items; `set_epoch` also reaches workers that stay alive between epochs.

    Every volume is decoded once, on construction. With `cache="memory"` the slices in use are held as
    float32 (4 bytes per pixel and modality); with `cache="disk"` they are mapped from files in `cache_dir`,
    which later runs use too.

    Args:
        ranges: `Split.training` or `Split.validation`.
        sources: source modalities, in order; the first gives the grid.
        targets: target modalities, in order; may be empty.
        training: whether to skip empty slices, augment and crop.
        plane, normalise, percentile, luma: see `ivan.data.load_case`.
        context: K, slices on each side whose sources are given too.
        derive: computes the targets from the sources of the whole slice, `[N, H, W]` to `[M, H, W]` (fusion
            without labels); the targets' own files are then not read.
        augmentation: training only; None for none.
        min_foreground: training only; a slice is kept where at least this share of its pixels is foreground,
            that is, exceeds 5 % of its scale in one of the sources.
        crop_foreground: training only; crop a case to the bounding box of the foreground of its slices, with
            a margin of 8 pixels. This saves time and memory where slices are mostly background.
        patch_size: training only; random crops of this size (one number or (H, W)), padded with zeros where
            a slice is smaller.
        cache: `"memory"` or `"disk"`.
        cache_dir: folder of the disk cache.
        memory_limit: bytes that `cache="memory"` may use; half of the machine's memory by default.
        seed: of everything random.
        on_case: called with (cases done, cases, name) after each case, for a progress display.

    Attributes:
        shapes: `(H, W)` of every item.
        entries: `(case name, slice)` of every item.
        scales: case name to modality to `Scale`.
        profiles: case name to modality to what the volume looks like.
        notes: what was done on reading (resampling, skipped slices), one line each.

    Raises:
        InputError: a file cannot be used, no slice is left, or an option is out of range.
    """

    def __init__(
        self,
        ranges: Sequence[CaseRange],
        sources: Sequence[str],
        targets: Sequence[str] = (),
        *,
        training: bool,
        plane: str = "axial",
        normalise: str = "percentile",
        percentile: float = 99.5,
        luma: bool = False,
        context: int = 0,
        derive: Callable[[np.ndarray], np.ndarray] | None = None,
        augmentation: Augmentation | None = None,
        min_foreground: float = 0.02,
        crop_foreground: bool = False,
        patch_size: int | tuple[int, int] | None = None,
        cache: str = "memory",
        cache_dir: str | Path | None = None,
        memory_limit: int | None = None,
        seed: int = 0,
        on_case: Callable[[int, int, str], None] | None = None,
    ) -> None:
        if cache not in CACHES or (cache == "disk" and cache_dir is None):
            raise InputError(f"cache {cache!r}: expected memory, or disk and a folder for it")
        if not 0 <= min_foreground <= 1:
            raise InputError(
                f"min_foreground {min_foreground}: expected a share of a slice's pixels from 0 to 1"
            )
        if not sources:
            raise InputError("no source modality, expected at least one")
        patch = (patch_size, patch_size) if isinstance(patch_size, int) else patch_size
        if patch is not None and (len(patch) != 2 or min(patch) < 1):
            raise InputError(f"patch_size {patch_size}: expected one or two positive numbers of pixels")
        self.sources, self.targets = list(sources), list(targets)
        self.training = training
        self.seed = seed
        self.notes: list[str] = []
        self.scales: dict[str, dict[str, Scale]] = {}
        self.profiles: dict[str, dict[str, Profile]] = {}
        self.entries: list[tuple[str, int]] = []
        self._augmentation = augmentation if training else None
        self._patch = patch if training else None
        self._min_foreground = min_foreground if training else 0.0
        self._crop = crop_foreground and training
        self.context, self._derive = context, derive
        self._modalities = list(dict.fromkeys([*sources, *(() if derive else targets)]))
        self._source_channels = [self._modalities.index(m) for m in self.sources]
        self._target_channels = [] if derive else [self._modalities.index(m) for m in self.targets]
        self._blocks: list[np.ndarray] = []  # per range: [K, M, H, W], in memory or mapped
        self._mapped: list[tuple[Path, tuple[slice, ...]] | None] = []
        self._items: list[tuple[int, np.ndarray]] = []  # (block, positions in it: the slice, its neighbours)
        if self._augmentation is not None:
            self._augmentation.prepare()
        # In shared memory: a worker that lives through several epochs sees the change.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        options = {"plane": plane, "normalise": normalise, "percentile": percentile}
        if luma:
            options["luma"] = luma
        limit = default_memory_limit() if memory_limit is None else memory_limit
        self._load(
            ranges, options, Path(cache_dir) if cache == "disk" and cache_dir else None, limit, on_case
        )
        self.shapes = [self._patch or self._blocks[block].shape[2:] for block, _ in self._items]

    def _load(
        self,
        ranges: Sequence[CaseRange],
        options: dict[str, Any],
        folder: Path | None,
        limit: int,
        on_case: Callable[[int, int, str], None] | None,
    ) -> None:
        by_case: dict[str, list[CaseRange]] = {}
        for item in ranges:
            by_case.setdefault(item.case.name, []).append(item)
        used = total = 0
        for done, (name, items) in enumerate(by_case.items(), start=1):
            case = items[0].case
            if folder is None:
                decoded = decode(case, self._modalities, self.sources, options)
            else:
                decoded = decode_on_disk(case, self._modalities, self.sources, options, folder)
            check_volume(name, len(decoded.slices), self.context)
            self.scales[name] = decoded.scales
            self.profiles[name] = decoded.profiles
            self.notes += [f"{name}: {note}" for note in decoded.notes]
            for item in items:
                start, stop = item.bounds(len(decoded.slices))
                total += stop - start
                used += self._add(decoded, start, stop, in_memory=folder is None)
            if folder is None:
                check_memory(used, limit, done, len(by_case))
            if on_case is not None:
                on_case(done, len(by_case), name)
        if not self._items:
            raise InputError(
                f"no slice left of {len(by_case)} cases ({total} slices): all have less than "
                f"{100 * self._min_foreground:g} % "
                "foreground; expected images with more; check the data, the plane and the slice "
                "ranges, or lower min_foreground"
            )
        if len(self._items) < total:
            self.notes.append(f"{total - len(self._items)} of {total} slices skipped: nearly empty")

    def _add(self, decoded: CachedCase, start: int, stop: int, *, in_memory: bool) -> int:
        """Keep the usable slices of a range; return the bytes of memory taken."""
        kept = start + np.flatnonzero(decoded.coverage[start:stop] >= self._min_foreground)
        if not kept.size:
            return 0
        rows, columns = slice(None), slice(None)
        if self._crop and decoded.box[kept].any():
            boxes = decoded.box[kept]
            boxes = boxes[boxes[:, 1] > 0]
            rows = slice(max(0, int(boxes[:, 0].min()) - _MARGIN), int(boxes[:, 1].max()) + _MARGIN)
            columns = slice(max(0, int(boxes[:, 2].min()) - _MARGIN), int(boxes[:, 3].max()) + _MARGIN)
        block = decoded.slices[:, :, rows, columns]
        positions = neighbours(kept, len(decoded.slices), self.context)
        if in_memory:
            needed, positions = np.unique(positions, return_inverse=True)
            positions = positions.reshape(len(kept), -1)
            block = block[needed]  # a copy: the rest of the case is freed
            self._mapped.append(None)
        else:
            self._mapped.append((Path(decoded.slices.filename), (slice(None), slice(None), rows, columns)))  # type: ignore[attr-defined]
        self._blocks.append(block)
        for place, index in zip(positions, kept.tolist(), strict=True):
            self._items.append((len(self._blocks) - 1, place))
            self.entries.append((decoded.case.name, index))
        return block.nbytes if in_memory else 0

    def __getstate__(self) -> dict[str, Any]:
        # A mapped array would be pickled with all its bytes: workers map the file again instead.
        state = self.__dict__.copy()
        state["_blocks"] = [b if m is None else None for b, m in zip(self._blocks, self._mapped, strict=True)]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        for position, mapped in enumerate(self._mapped):
            if mapped is not None:
                self._blocks[position] = np.load(mapped[0], mmap_mode="r", allow_pickle=False)[mapped[1]]

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that, with the seed and the index, decides every random change."""
        self._epoch.fill_(epoch)

    def median_scale(self, modality: str) -> Scale:
        """The median over cases of `modality`'s scale, which gives a prediction for a new case its units."""
        scales = [scales[modality] for scales in self.scales.values()]
        return Scale(statistics.median(s.low for s in scales), statistics.median(s.high for s in scales))

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < len(self._items):
            raise IndexError(f"index {index} of a data set of {len(self._items)} slices")
        stack = self._stack(*self._items[index])
        sources = len(self.sources) * (2 * self.context + 1)
        rng = np.random.default_rng([self.seed, int(self._epoch), index])
        if self._augmentation is not None:
            stack = self._augmentation.warp(stack, rng)
        if self._patch is not None:
            stack = _random_patch(stack, self._patch, rng)
        altered: dict[str, torch.Tensor] = {}
        if self._augmentation is not None:
            stack = self._augmentation.turn(stack, rng)
            recoloured = self._augmentation.recolour(stack, sources, rng)
            if self._augmentation.changes_inputs:
                inputs = self._sides(recoloured)
                altered = {"source_input": inputs["source"], "target_input": inputs["target"]}
            else:
                stack = recoloured
        name, number = self.entries[index]
        return {**self._sides(stack), **altered, "case": name, "slice": number}

    def _stack(self, block: int, positions: np.ndarray) -> np.ndarray:
        """`[N (2K + 1) + M, H, W]` of one item: the slice's sources, its neighbours', its targets."""
        slices = [
            np.asarray(self._blocks[block][position]) for position in positions
        ]  # [modalities, H, W] each
        sources = [one[self._source_channels] for one in slices]
        own = sources[0]
        targets = slices[0][self._target_channels] if self._derive is None else self._derive(own)
        return np.concatenate([*sources, targets])

    def _sides(self, stack: np.ndarray) -> dict[str, torch.Tensor]:
        """`[N + M, H, W]` as the tensors of sources and targets."""
        tensor = torch.from_numpy(np.array(stack, dtype=np.float32, order="C"))
        sources = len(self.sources) * (2 * self.context + 1)
        return {"source": tensor[:sources], "target": tensor[sources:]}


def _random_patch(stack: np.ndarray, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """A crop `[M, *size]` at a random place, padded evenly with zeros where `stack` is smaller."""
    short = [max(0, want - have) for want, have in zip(size, stack.shape[1:], strict=True)]
    if any(short):
        stack = np.pad(stack, [(0, 0), *((missing // 2, missing - missing // 2) for missing in short)])
    top, left = (
        int(rng.integers(0, have - want + 1)) for want, have in zip(size, stack.shape[1:], strict=True)
    )
    return stack[:, top : top + size[0], left : left + size[1]]


def collate_slices(items: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Batch items of `SliceDataset`: tensors `[B, N or M, H, W]`, lists of case names and slices.

    Raises:
        InputError: the slices have different shapes; `ShapeBatchSampler` batches equal ones only.
    """
    shapes = {tuple(item["source"].shape[1:]) for item in items}
    if len(shapes) > 1:
        listed = ", ".join("x".join(map(str, shape)) for shape in sorted(shapes))
        raise InputError(
            f"slices of different shapes in one batch ({listed}); use ShapeBatchSampler, a patch size "
            "or batch size 1"
        )
    tensors = [name for name, value in items[0].items() if isinstance(value, torch.Tensor)]
    return {
        **{name: torch.stack([item[name] for item in items]) for name in tensors},
        "case": [item["case"] for item in items],
        "slice": [item["slice"] for item in items],
    }
