"""Checks an installed package from outside of the checkout: kernels, data files, a tiny job (`make wheel`).

python check_wheel.py [--isa portable]      # --isa: the only instruction set that the build may have
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

import ivan_fast
from ivan_fast import ops, reference

OURS = Path(ivan_fast.__file__).resolve().parent


def kernels() -> float:
    """Largest difference of the compiled dense block and its plain PyTorch twin."""
    torch.manual_seed(0)
    x = torch.randn(2, 3, 19, 37)
    weights = [torch.randn(8 if i < 4 else 2, 3 + 8 * i, 3, 3) / 6 for i in range(5)]
    biases = [torch.randn(w.shape[0]) / 10 for w in weights]
    made = ops.dense_block(x, weights, biases, 0.2, "strict")
    truth = reference.dense_block(
        x.double(), [w.double() for w in weights], [b.double() for b in biases], 0.2, "strict"
    )
    return float((made - truth).abs().max() / truth.abs().max())


def job(folder: Path) -> None:
    """Train a step, synthesise and report, with the files that only an installed package has right."""
    import nibabel as nib

    from ivan.cli import run

    rng = np.random.default_rng(0)
    for modality in ("T1", "T2"):
        for case in ("a", "b"):
            path = folder / "data" / modality / f"{case}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(rng.uniform(1, 9, (16, 18, 4)).astype(np.float32), np.eye(4)), path)
    train = (
        f"train --data {folder}/data --from T1 --to T2 --out {folder}/run --blocks 1 --growth 4 --max-steps 1"
    )
    assert run([*train.split(), "--device", "cpu", "--threads", "1", "--no-tensorboard", "--quiet"]) == 0
    assert run(f"synthesize --run {folder}/run --data {folder}/data --out {folder}/out --quiet".split()) == 0
    assert run(f"prepare {folder}/data --out {folder}/prepared --quiet".split()) == 0
    assert (folder / "out" / "T2" / "a.nii.gz").is_file()
    assert "<html" in (folder / "run" / "report.html").read_text()
    assert "<html" in (folder / "prepared" / "quality.html").read_text()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kernels-only", action="store_true", help="print the kernels' error and stop")
    options = parser.parse_args()
    if options.kernels_only:
        print(kernels())
        return
    info = ivan_fast.build_info()
    print(OURS, info)
    for isa in info["cpu_isa_available"]:
        command = [sys.executable, __file__, "--kernels-only"]
        environment = {**os.environ, "IVAN_FAST_CPU_ISA": isa}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        error = float(done.stdout)
        print(f"{isa}: relative error {error:.1e}")
        assert error < 1e-5, isa
    assert Path(sys.prefix).resolve() in OURS.parents, f"{OURS} is not the installed package"
    with tempfile.TemporaryDirectory() as folder:
        job(Path(folder))
    print("fine")


if __name__ == "__main__":
    main()
