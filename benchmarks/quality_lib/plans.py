"""What is trained and measured on: cases, slices and modalities of each experiment."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from real_run import EXPERIMENTS, Experiment, prepare

from ivan.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from ivan.data import CaseRange, LoadedCase

REPO = Path(__file__).resolve().parent.parent.parent
IXI_SUBJECTS = (25, 5, 10)  # training, validation (kept aside), test: the protocol of SelfRDB
IXI_SLICES = 100


# Of the real run (docs/results.md): found within one training patient.
AUGMENTATION: dict[str, Any] = {
    "rotate": 9.0,
    "scale": 0.06,
    "contrast": 0.15,
    "brightness": 0.05,
    "intensity_on": "inputs",
}
# Within one head the intensities are what tells a tissue, and changing them costs half a decibel.
WITHIN_ONE_HEAD = {**AUGMENTATION, "contrast": 0.0, "brightness": 0.0}


@dataclass(frozen=True)
class Plan:
    """An experiment.

    Attributes:
        name: of the experiment.
        sources, targets: modalities.
        training, measured: cases and slices; no patient, or no neighbouring slices of one, in both.
        normalise: as in `ivan.data.load_case`.
        protocol: in words, for the results.
        augmentation: fields of `ivan.data.Augmentation`, the same for every method.
    """

    name: str
    sources: tuple[str, ...]
    targets: tuple[str, ...]
    training: list[CaseRange]
    measured: list[CaseRange]
    normalise: str
    protocol: str
    augmentation: dict[str, Any] = field(default_factory=lambda: dict(AUGMENTATION))

    def load(self, item: CaseRange) -> tuple[LoadedCase, np.ndarray]:
        """A case and its slices of the range, [S, N + M, H, W] normalised."""
        from ivan.data import load_case

        loaded = load_case(item.case, (*self.sources, *self.targets), normalise=self.normalise)
        start, stop = item.bounds(len(loaded.slices))
        return loaded, loaded.slices[start:stop]


def _with_flair(experiment: Experiment) -> Experiment:
    def files(cases: dict[str, dict[str, str]]) -> dict[str, dict[str, str]]:
        return {c: {**f, "FLAIR": f["T1"].replace("_T1", "_FLAIR")} for c, f in cases.items()}

    return dataclasses.replace(
        experiment,
        sources=("T1", "FLAIR"),
        training=files(experiment.training),
        measured=files(experiment.measured),
    )


SHARED = {
    "ms": EXPERIMENTS["ms"],  # T1 -> T2, patient 07 to patient 26
    "ms-flair": _with_flair(EXPERIMENTS["ms"]),  # T1 + FLAIR -> T2
    "sri24": EXPERIMENTS["sri24"],  # T1 + PD -> T2, slabs of one head
}


def shared_plan(name: str, out: Path) -> Plan:
    """An experiment on $IVAN_SHARED/data; its reduced volumes are written to out/data once."""
    from ivan.data import CaseRange, find_cases, make_split

    experiment = SHARED[name]
    folder = out / "data"
    if not (folder / "split.json").exists():
        prepare(experiment, Path(os.environ.get("IVAN_SHARED", REPO.parent / "shared")), folder)
    names = (*experiment.sources, *experiment.targets)
    training = make_split(find_cases(folder / "train", names), file=folder / "split.json").training
    first, end = experiment.measured_slices
    measured = [CaseRange(case, first, end) for case in find_cases(folder / "test", names)]
    words = (
        f"volumes divided by their 99.5th percentile inside the brain, 2x2x2 block means; slices {first} to "
        f"{end - 1} of {', '.join(experiment.measured)}"
    )
    one_head = experiment.training.keys() == experiment.measured.keys()
    changes = WITHIN_ONE_HEAD if one_head else AUGMENTATION
    return Plan(name, experiment.sources, experiment.targets, training, measured, "none", words, changes)


def folder_plan(data: Path, split: Path, sources: tuple[str, ...], targets: tuple[str, ...]) -> Plan:
    """Any data folder with a split file: its validation part is what is measured."""
    from ivan.data import make_split
    from ivan.inference import find

    found = make_split(find((*sources, *targets), data), file=split)
    if not found.validation:
        raise InputError(f'{split}: "validation" is empty, expected the cases to measure')
    words = f"each volume by its own 99.5th foreground percentile; {split}"
    return Plan("folder", sources, targets, found.training, found.validation, "percentile", words)


def ixi_plan(data: Path, sources: tuple[str, ...], targets: tuple[str, ...]) -> Plan:
    """IXI-named files (IXI002-Guys-0828-T1.nii.gz), registered: 25 subjects to train on, 5 aside, 10 to
    measure.

    Subjects are taken in the order of their numbers; of each the 100 neighbouring axial slices that hold most
    foreground.

    Raises:
        InputError: fewer than 40 subjects with all modalities.
    """
    from ivan.data import CaseRange, find_cases

    cases = [case for case in find_cases(data, (*sources, *targets)) if re.match(r"(?i)IXI\d+", case.name)]
    cases.sort(key=lambda case: case.name)
    if len(cases) < sum(IXI_SUBJECTS):
        raise InputError(
            f"{data}: {len(cases)} subjects have {', '.join((*sources, *targets))}, expected "
            f"{sum(IXI_SUBJECTS)} with names such as IXI002-Guys-0828-T1.nii.gz"
        )
    train, aside, test = IXI_SUBJECTS
    plan = Plan("ixi", sources, targets, [], [], "percentile", "")

    def densest(case: object) -> CaseRange:
        item = CaseRange(case)  # type: ignore[arg-type]
        loaded, slices = plan.load(item)
        share = loaded.foreground([sources[0]]).mean(axis=(1, 2))
        count = min(IXI_SLICES, len(slices))
        sums = [share[i : i + count].sum() for i in range(len(share) - count + 1)]
        start = max(range(len(sums)), key=sums.__getitem__)
        return CaseRange(case, start, start + count)  # type: ignore[arg-type]

    return dataclasses.replace(
        plan,
        training=[densest(case) for case in cases[:train]],
        measured=[densest(case) for case in cases[train + aside : train + aside + test]],
        protocol=(
            f"{train} subjects trained on, {aside} kept aside, {test} measured, in the order of their "
            "numbers; the "
            f"{IXI_SLICES} neighbouring axial slices with most foreground; each volume by its own 99.5th "
            "percentile"
        ),
    )


def describe(plan: Plan) -> str:
    """The plan as JSON text: runs of another plan are not continued."""

    def entries(items: list[CaseRange]) -> list[list[object]]:
        return [[i.case.name, i.start, i.stop] for i in items]

    return json.dumps(
        [
            plan.name,
            plan.sources,
            plan.targets,
            entries(plan.training),
            entries(plan.measured),
            plan.normalise,
        ]
    )
