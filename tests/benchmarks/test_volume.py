"""The measurement of one volume's synthesis, on a small one; and its figures in the documentation."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import nibabel as nib


def test_measures_both_directions(repo: Path, tmp_path: Path) -> None:
    target = tmp_path / "volume.json"
    command = [
        sys.executable,
        "benchmarks/volume.py",
        "--out",
        str(tmp_path),
        "--shape",
        "40x36x4",
        "--threads",
        "1",
    ]
    command += ["--network", "--blocks 1 --growth 4", "--json", str(target)]
    subprocess.run(command, cwd=repo, check=True)
    found = json.loads(target.read_text())
    assert found["shape"] == [40, 36, 4]
    for direction, name in (("forward", "T2"), ("inverse", "T1")):
        made = found["directions"][direction]
        assert 0 <= made["volume_seconds"] < made["command_seconds"]
        assert made["peak_memory_mb"] > 50  # Python and PyTorch alone take more
        assert nib.load(tmp_path / direction / name / "head.nii.gz").shape == (40, 36, 4)


def test_documentation_tells_what_was_measured(repo: Path) -> None:
    page = (repo / "docs" / "deploy.md").read_text(encoding="utf-8")
    found = json.loads((repo / "benchmarks" / "results" / "volume.json").read_text())
    assert found["shape"] == [256, 256, 150]
    for made in found["directions"].values():
        assert f"{made['volume_seconds']:.0f} s" in page
        assert f"{made['peak_memory_mb'] / 1000:.1f} GB" in page
