"""Rigid registration of two modalities by mutual information (SimpleITK, the extra `register`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ivan.data.resample import overlap
from ivan.data.volume import Volume
from ivan.errors import InputError

_FLIP = np.diag([-1.0, -1.0, 1.0, 1.0])  # RAS and LPS
BINS, SAMPLES = 32, 80_000  # of the joint histogram; Mattes et al., IEEE TMI 22(1), 2003
_MOST_VOXELS = 200**3


@dataclass(frozen=True)
class Rigid:
    """Where a moving image goes.

    Attributes:
        world: [4, 4] float64, RAS mm: applied to the moving image's affine it brings it onto the fixed one.
        angle: degrees of its rotation.
        shift: mm between where the centre of the fixed field of view was and is.
        before, after: Mattes mutual information at the start and at the end; larger is better.
    """

    world: np.ndarray
    angle: float
    shift: float
    before: float
    after: float

    def to_json(self) -> dict[str, Any]:
        """Plain values for a case's record."""
        numbers = {"angle_degrees": self.angle, "shift_mm": self.shift}
        numbers |= {"mutual_information_before": self.before, "mutual_information_after": self.after}
        return {"matrix": self.world.tolist(), **{key: round(value, 4) for key, value in numbers.items()}}


def require_simpleitk() -> Any:
    """The SimpleITK module, or an InputError that says how to get it."""
    try:
        import SimpleITK
    except ImportError:
        raise InputError(
            "--register: SimpleITK is not installed; expected the 'register' extra: pip install "
            "'ivan_fast[register]'"
        ) from None
    return SimpleITK


def register(fixed: Volume, moving: Volume, seed: int = 0) -> Rigid:
    """Find the rigid motion that maximises the mutual information of two images of one head.

    Mattes mutual information (32 bins, 80,000 seeded samples) over three resolutions, regular-step gradient
    descent. It starts where the headers say, or with the centres of mass laid together where that is
    better (or where the headers do not overlap). A result that is worse than its start is not used.

    Raises:
        InputError: SimpleITK is absent, or it cannot compare the images.
    """
    sitk = require_simpleitk()
    a, b = _image(sitk, fixed), _image(sitk, moving)
    try:
        start, before = _start(sitk, a, b, fixed, moving, seed)
        method = _method(sitk)
        share = SAMPLES / fixed.data.size
        method.SetMetricSamplingPercentagePerLevel([min(1.0, share * k) for k in (64, 8, 1)], seed + 1)
        method.SetOptimizerAsRegularStepGradientDescent(
            learningRate=4.0,
            minStep=1e-3,
            numberOfIterations=200,
            relaxationFactor=0.7,
            gradientMagnitudeTolerance=1e-6,
        )
        method.SetOptimizerScalesFromPhysicalShift()
        method.SetShrinkFactorsPerLevel([4, 2, 1])
        method.SetSmoothingSigmasPerLevel([6, 3, 1])
        method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOn()
        transform = sitk.Euler3DTransform(start)
        method.SetInitialTransform(transform, inPlace=True)
        method.Execute(a, b)
        after = _metric(sitk, a, b, transform, seed)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise InputError(
            f"{moving.path}: cannot be registered to {fixed.path} ({reason}); register them first, or "
            "leave out "
            "--register"
        ) from None
    if after < before:
        transform, after = start, before
    # ITK's transform takes fixed points to moving points (LPS): its inverse moves the moving image.
    world = _FLIP @ np.linalg.inv(_matrix(transform)) @ _FLIP
    angle = float(np.degrees(np.arccos(np.clip((np.trace(world[:3, :3]) - 1) / 2, -1, 1))))
    centre = np.array([*((np.array(fixed.data.shape) - 1) / 2), 1.0])
    point = fixed.affine @ centre
    shift = float(np.linalg.norm((world @ point - point)[:3]))
    return Rigid(world, angle, shift, before, after)


def _image(sitk: Any, volume: Volume) -> Any:
    """A SimpleITK image of a volume, thinned to at most 8 million voxels."""
    data, affine = volume.data, volume.affine
    factor = int(np.ceil((data.size / _MOST_VOXELS) ** (1 / 3)))
    data = data[::factor, ::factor, ::factor]
    image = sitk.GetImageFromArray(np.ascontiguousarray(data.T))
    matrix = _FLIP @ affine
    size = np.sqrt((matrix[:3, :3] ** 2).sum(axis=0))
    direction = matrix[:3, :3] / size
    u, _, v = np.linalg.svd(direction)  # a sheared grid (gantry tilt): the nearest right-angled one
    image.SetDirection((u @ v).ravel().tolist())
    image.SetSpacing((size * factor).tolist())
    image.SetOrigin(matrix[:3, 3].tolist())
    return image


def _method(sitk: Any) -> Any:
    method = sitk.ImageRegistrationMethod()
    method.SetNumberOfThreads(1)  # sums in one order: the same result every time
    method.SetMetricAsMattesMutualInformation(BINS)
    method.SetMetricSamplingStrategy(method.RANDOM)
    method.SetInterpolator(sitk.sitkLinear)
    return method


def _metric(sitk: Any, a: Any, b: Any, transform: Any, seed: int) -> float:
    method = _method(sitk)
    method.SetMetricSamplingPercentage(min(1.0, SAMPLES / a.GetNumberOfPixels()), seed + 1)
    method.SetInitialTransform(transform)
    return -float(method.MetricEvaluate(a, b))  # ITK minimises


def _start(sitk: Any, a: Any, b: Any, fixed: Volume, moving: Volume, seed: int) -> tuple[Any, float]:
    identity = sitk.Euler3DTransform()
    identity.SetCenter(a.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in a.GetSize()]))
    centred = sitk.Euler3DTransform(
        sitk.CenteredTransformInitializer(
            a, b, sitk.Euler3DTransform(), sitk.CenteredTransformInitializerFilter.MOMENTS
        )
    )
    candidates = [centred]
    if overlap(fixed, moving) > 0.25:
        candidates.insert(0, identity)
    scored = [(_metric(sitk, a, b, transform, seed), transform) for transform in candidates]
    best = max(scored, key=lambda item: item[0])
    return best[1], best[0]


def _matrix(transform: Any) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3] = np.array(transform.GetMatrix()).reshape(3, 3)
    centre, shift = np.array(transform.GetCenter()), np.array(transform.GetTranslation())
    matrix[:3, 3] = shift + centre - matrix[:3, :3] @ centre
    return matrix
