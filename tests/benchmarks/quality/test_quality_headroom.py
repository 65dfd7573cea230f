"""What averages and intensities could still bring to finished runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest


def test_of_finished_runs(
    quality: Any, tiny: list[str], ixi: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, plan = tmp_path / "out", ["ixi", "--data", str(ixi), "--from", "T1", "--to", "T2"]
    line = [*plan, "--out", str(out)]
    assert quality.main(["headroom", *line]) == 2
    assert "no finished run" in capsys.readouterr().err
    assert quality.main(["run", *line, "--methods", "ivan,table", "--seeds", "0,1", *tiny]) == 0
    before = (out / "table.md").read_text()
    assert quality.main(["headroom", *line]) == 0
    assert (out / "table.md").read_text() == before
    rows = json.loads((out / "headroom.json").read_text())["rows"]
    names = ["ivan-seed0", "ivan-seed1", "ivan, 2 seeds averaged", "table-seed0"]
    assert [row["run"] for row in rows if row["direction"] == "reverse"] == names
    for row in rows:
        values = row["values"]
        assert values["psnr"] <= values["linear"] + 1e-9, row
        if not row["run"].startswith("ivan, "):
            found = json.loads((out / "results" / f"{row['run']}.json").read_text())["rows"]
            of_cases = [
                r["values"]["psnr"]
                for r in found
                if (r["direction"], r["target"]) == (row["direction"], row["target"])
            ]
            assert values["psnr"] == pytest.approx(np.mean(of_cases), abs=1e-4)
        if row["run"].startswith("table"):  # knows no neighbours: turned or not is the same to it
            assert values["turned"] == pytest.approx(values["psnr"], abs=1e-4)
    assert "| forward | T2 | ivan, 2 seeds averaged |" in (out / "headroom.md").read_text()
    (out / "checkpoints" / "ivan-seed1.pt").unlink()
    assert quality.main(["headroom", *line]) == 0
    assert "ivan-seed1: no" in capsys.readouterr().out
    assert "averaged |" not in (out / "headroom.md").read_text().replace("mirrors averaged |", "")
    damaged = out / "checkpoints" / "ivan-seed0.pt"
    damaged.write_bytes(damaged.read_bytes()[:100])
    capsys.readouterr()
    assert quality.main(["measure", *line]) == 2
    error = capsys.readouterr().err
    assert f"{damaged}: cannot be read" in error
    assert error.count("\n") == 1


def test_turns_are_turned_back(quality: Any) -> None:
    """Of a prediction that looks at one neighbour, the mean over turns looks at all four."""
    from quality_lib.headroom import over_turns

    slices = np.random.default_rng(0).random((2, 1, 5, 7), np.float32)
    found = over_turns(lambda x: np.roll(x, 1, axis=3), slices)
    assert found is not None
    plain, made = found
    np.testing.assert_array_equal(plain, np.roll(slices, 1, axis=3))
    around = [np.roll(slices, shift, axis) for shift in (1, -1) for axis in (2, 3)]
    np.testing.assert_allclose(made, np.mean(around, axis=0), atol=1e-6)
    assert over_turns(lambda x: None, slices) is None


def test_intensities_set_right(quality: Any) -> None:
    from quality_lib.headroom import line_through, table_through

    from ivan import metrics

    def psnr(made: np.ndarray, real: np.ndarray) -> float:
        return float(metrics.psnr(real, made, data_range=1.0))

    made = np.linspace(0, 1.2, 4000).reshape(40, 100)
    real = np.where(made > 0, 0.8 * made + 0.1, 0)
    assert psnr(line_through(made, real), real) > 200
    squared = made**2
    assert psnr(made, squared) < psnr(line_through(made, squared), squared) < 35
    assert made[32].max() < 1
    assert psnr(table_through(made[:33], squared[:33]), squared[:33]) > 40
