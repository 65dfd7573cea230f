"""Writes docs/first_steps.ipynb from the cells below: `python docs/first_steps.py` (`make docs`)."""

from __future__ import annotations

import sys
from pathlib import Path

TARGET = Path(__file__).resolve().parent / "first_steps.ipynb"
CELLS: list[tuple[str, str]] = [
    (
        "markdown",
        """# First steps with `ivan` in Python

Train a small invertible network on simulated images, use it in both directions, measure it. Everything
is quick, and the images are computed here: the numbers say nothing about real scans.""",
    ),
    (
        "code",
        """import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import nibabel as nib
import numpy as np

import ivan

folder = Path(tempfile.mkdtemp())""",
    ),
    (
        "markdown",
        """## Images

`DATA/MODALITY/case.nii.gz`: four simulated patients, two contrasts of the same random anatomy.""",
    ),
    (
        "code",
        """def write_patient(name: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, y, _ = np.meshgrid(*(np.linspace(-1, 1, n) for n in (40, 44, 6)), indexing="ij")
    tissue = np.where(x**2 + y**2 < 0.8, 0.6, 0.0)
    for _ in range(6):
        cx, cy, size = rng.uniform(-0.5, 0.5, 3) * (1, 1, 0.4) + (0, 0, 0.25)
        tissue[((x - cx) ** 2 + (y - cy) ** 2 < size**2) & (tissue > 0)] = rng.uniform(0.2, 1)
    contrasts = {"T1": 900 * tissue, "T2": np.where(tissue > 0, 500 * (1.2 - tissue), 0)}
    for modality, values in contrasts.items():
        path = folder / "data" / modality / f"{name}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(values.astype(np.float32), np.diag([5.0, 5.0, 10.0, 1.0])), path)


for number in range(4):
    write_patient(f"patient{number}", number)
sorted(path.name for path in (folder / "data" / "T1").iterdir())""",
    ),
    (
        "markdown",
        """## Training

`ivan.fit` is `ivan train`: one setting for each option. One patient of four is held out.""",
    ),
    (
        "code",
        """run = ivan.fit(
    data=str(folder / "data"),
    sources=["T1"],
    targets=["T2"],
    out=str(folder / "run"),
    blocks=2,
    growth=8,
    epochs=12,
    lr=3e-3,
    schedule="cosine",
    device="cpu",
    threads=1,
    tensorboard=False,
    progress=False,
)
sorted(path.name for path in run.iterdir())""",
    ),
    (
        "markdown",
        """## Measuring

Both directions on the held-out patient, with the protocol of each number.""",
    ),
    (
        "code",
        """result = ivan.evaluate(run=run, data=folder / "data", split=run / "split.json", device="cpu")
for row in result.cases:
    print(row.case, row.direction, row.target, f"{row.values['psnr']:.1f} dB")
result.cases[0].protocol["psnr"]""",
    ),
    ("markdown", "## The network itself\n\nIts inverse is exact, with the same weights."),
    (
        "code",
        """import torch

model, aug, config = ivan.load_run(run)
x = torch.rand(1, 1, 44, 40)
state = aug.augment_sources(x)
with torch.inference_mode():
    y = model(state)
    error = (model.inverse(y) - state).abs().max().item()
assert error < 1e-4
error""",
    ),
    (
        "code",
        """view = result.views[0]
synthesis = view.syntheses[0]
middle = synthesis.prediction.shape[2] // 2
images = {"T1": view.images["T1"], "T2, synthesised": synthesis.prediction, "T2, real": synthesis.reference}
figure, axes = plt.subplots(1, 3, figsize=(8, 3))
for axis, (title, volume) in zip(axes, images.items(), strict=True):
    axis.imshow(np.rot90(volume[:, :, middle]), cmap="gray", vmin=0, vmax=1)
    axis.set_title(title)
    axis.axis("off")""",
    ),
]


def build() -> str:
    """The notebook as JSON, without outputs."""
    import nbformat

    book = nbformat.v4.new_notebook()
    make = {"markdown": nbformat.v4.new_markdown_cell, "code": nbformat.v4.new_code_cell}
    for number, (kind, text) in enumerate(CELLS):
        cell = make[kind](text)
        cell["id"] = f"cell-{number}"
        book.cells.append(cell)
    book.metadata["kernelspec"] = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return str(nbformat.writes(book)) + "\n"


if __name__ == "__main__":
    if "--check" in sys.argv:
        sys.exit(
            0 if TARGET.read_text(encoding="utf-8") == build() else f"{TARGET} is out of date: make docs"
        )
    TARGET.write_text(build(), encoding="utf-8")
