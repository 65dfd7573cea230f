"""T1, T2 and PD volumes of one head for the demo: a real T1 template, T2 and PD simulated from its maps.

The MNI ICBM 2009a symmetric template and its grey and white matter maps (1 mm) lie inside the nilearn
package. T1 is that template. T2 and PD are the two echoes of a dual-echo spin-echo sequence, each tissue
contributing

    S = PD (1 - exp(-TR / T1)) exp(-TE / T2)

in proportion to its share of the voxel, with smooth receive bias and Rician noise: *simulated contrast*.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ivan.errors import InputError

SIMULATED = ("T2", "PD")
LABEL = "simulated contrast"
_MAPS = "mni_icbm152_{}_tal_nlin_sym_09a_converted.nii.gz"
_INSTALL = 'install it with: pip install "ivan_fast[demo]"'


@dataclass(frozen=True)
class Tissue:
    """T1 and T2 in ms and relative proton density at 1.5 T."""

    t1: float
    t2: float
    pd: float


# The tissue parameters of the BrainWeb simulator at 1.5 T: Kwan, Evans, Pike, "MRI simulation-based
# evaluation of image-processing and classification methods", IEEE TMI 18(11):1085-1097, 1999.
TISSUES = {
    "csf": Tissue(2569, 329, 1.0),
    "gm": Tissue(833, 83, 0.86),
    "wm": Tissue(500, 70, 0.77),
}
REPETITION_TIME = 3300.0  # ms
ECHO_TIMES = {"PD": 35.0, "T2": 120.0}  # ms: BrainWeb's dual-echo sequence
NOISE = 0.02  # standard deviation of the Gaussian noise in each channel, as a share of the CSF signal
BIAS = 0.1  # the receive field ranges over 1 - BIAS .. 1 + BIAS inside the brain ("20 % INU")


def spin_echo(tissue: Tissue, repetition_time: float, echo_time: float) -> float:
    """Signal of a tissue for TR and TE in ms: PD (1 - exp(-TR/T1)) exp(-TE/T2)."""
    recovery = 1 - np.exp(-repetition_time / tissue.t1)
    return float(tissue.pd * recovery * np.exp(-echo_time / tissue.t2))


@dataclass(frozen=True)
class Head:
    """Volumes of the head on one grid.

    Attributes:
        volumes: modality -> [X, Y, Z] float32, RAS order; 0 outside the brain. T1 0..255, T2 and PD 0..1000.
        affine: voxel -> MNI space in mm.
    """

    volumes: dict[str, np.ndarray]
    affine: np.ndarray


def maps_folder() -> Path:
    """Where nilearn keeps the template, found without importing nilearn.

    Raises:
        InputError: nilearn is not installed or does not hold the template.
    """
    spec = importlib.util.find_spec("nilearn")
    if spec is None or not spec.submodule_search_locations:
        raise InputError(f"nilearn: absent, but the demo's MNI152 template comes with it; {_INSTALL}")
    folder = Path(next(iter(spec.submodule_search_locations))) / "datasets" / "data"
    for kind in ("t1", "gm", "wm"):
        if not (folder / _MAPS.format(kind)).is_file():
            raise InputError(f"{folder / _MAPS.format(kind)}: absent from this nilearn; {_INSTALL}")
    return folder


def _block_mean(volume: np.ndarray, factor: int) -> np.ndarray:
    """Mean over factor^3 blocks of [X, Y, Z]; what does not fill a block at the far ends is cut."""
    x, y, z = (size // factor for size in volume.shape)
    cut = volume[: x * factor, : y * factor, : z * factor]
    return cut.reshape(x, factor, y, factor, z, factor).mean((1, 3, 5), dtype=np.float32)


def _bias_field(shape: tuple[int, ...], brain: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Smooth multiplicative field, 1 - BIAS .. 1 + BIAS in the brain: a random cubic polynomial."""
    axes = np.meshgrid(*(np.linspace(-1, 1, size) for size in shape), indexing="ij")
    field = np.zeros(shape)
    for i in range(4):
        for j in range(4 - i):
            for k in range(4 - i - j):
                if i + j + k:
                    field += rng.normal() * axes[0] ** i * axes[1] ** j * axes[2] ** k
    low, high = field[brain].min(), field[brain].max()
    return (1 + BIAS * (2 * np.clip((field - low) / (high - low), 0, 1) - 1)).astype(np.float32)


def build_head(factor: int = 2, seed: int = 0) -> Head:
    """The head at `factor` mm: T1 from the template, T2 and PD simulated; the same for the same seed.

    Raises:
        InputError: nilearn or one of its maps is absent or cannot be read.
    """
    from ivan.data import read_volume

    folder = maps_folder()
    found = {kind: read_volume(folder / _MAPS.format(kind)) for kind in ("t1", "gm", "wm")}
    t1, gm, wm = (found[kind].data for kind in ("t1", "gm", "wm"))
    inside = t1 > 0  # the template is stripped of its skull
    shares = {"gm": gm / 255 * inside, "wm": wm / 255 * inside}
    shares["csf"] = np.clip(inside - shares["gm"] - shares["wm"], 0, 1)
    small = {name: _block_mean(share, factor) for name, share in shares.items()}
    brain = _block_mean(inside.astype(np.float32), factor) >= 0.5

    rng = np.random.default_rng(seed)
    # Both echoes are read by the same coil in the same scan: one field, but fresh noise for each.
    bias = _bias_field(brain.shape, brain, rng)
    volumes = {"T1": _block_mean(t1, factor) * brain}
    for name, echo_time in ECHO_TIMES.items():
        signal = sum(small[k] * spin_echo(TISSUES[k], REPETITION_TIME, echo_time) for k in TISSUES) * bias
        sigma = NOISE * spin_echo(TISSUES["csf"], REPETITION_TIME, echo_time)
        real, imaginary = rng.normal(0, sigma, (2, *brain.shape))
        volumes[name] = (1000 * np.hypot(signal + real, imaginary) * brain).astype(np.float32)

    affine = np.array(found["t1"].affine, dtype=float)
    affine[:3, 3] += affine[:3, :3] @ np.full(3, (factor - 1) / 2)  # centre of a block
    affine[:3, :3] = affine[:3, :3] * factor
    return _crop(Head(volumes, affine), brain)


def _crop(head: Head, brain: np.ndarray, margin: int = 2) -> Head:
    """The head without most of its empty border."""
    box = []
    for axis in range(3):
        others = tuple(i for i in range(3) if i != axis)
        seen = np.flatnonzero(brain.any(axis=others))
        box.append(slice(max(0, int(seen[0]) - margin), min(brain.shape[axis], int(seen[-1]) + 1 + margin)))
    affine = head.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ np.array([part.start for part in box], dtype=float)
    volumes = {name: np.ascontiguousarray(volume[tuple(box)]) for name, volume in head.volumes.items()}
    return Head(volumes, affine)


def slab(head: Head, low: float, high: float) -> Head:
    """The slices whose MNI z lies in low..high mm."""
    z = head.affine[2, 3] + head.affine[2, 2] * np.arange(next(iter(head.volumes.values())).shape[2])
    keep = np.flatnonzero((z >= low) & (z <= high))
    start, stop = int(keep[0]), int(keep[-1]) + 1
    affine = head.affine.copy()
    affine[:3, 3] += affine[:3, 2] * start
    return Head({name: volume[:, :, start:stop] for name, volume in head.volumes.items()}, affine)


def describe(modality: str) -> str:
    """What the NIfTI header says of an image (at most 79 characters)."""
    if modality not in SIMULATED:
        return "MNI152 2009a T1 template, block means"
    return f"{LABEL}: spin echo TR {REPETITION_TIME:.0f} TE {ECHO_TIMES[modality]:.0f} ms, 1.5 T"


def write_slab(folder: Path, case: str, part: Head) -> None:
    """Write folder/MODALITY/case.nii.gz for every modality, the simulated ones labelled in their header.

    Raises:
        RunError: the files cannot be written.
    """
    import gzip

    import nibabel

    from ivan.data import atomic_file

    for modality, data in part.volumes.items():
        image = nibabel.Nifti1Image(data, part.affine)
        image.header.set_xyzt_units("mm")
        image.header["descrip"] = describe(modality).encode("ascii")
        image.set_sform(part.affine, code="mni")
        image.set_qform(part.affine, code="mni")
        with atomic_file(folder / modality / f"{case}.nii.gz") as file:
            file.write(gzip.compress(image.to_bytes(), mtime=0))
