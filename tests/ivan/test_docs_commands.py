"""Every command line in the documentation is run: here, or by the test that is named for it."""

from __future__ import annotations

import itertools
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from dicom_phantom import write_series

import ivan as package
from ivan.cli import run as ivan
from ivan.official import official_state_dict

REPO = Path(__file__).resolve().parents[2]
PAGES = [REPO / "README.md", *sorted((REPO / "docs").glob("*.md"))]
# A line that starts like this is run by another test, or cannot be run here (and why).
ELSEWHERE = {
    "pip install": "tests/test_build.py",
    "make demo": "tests/ivan/test_demo.py",
    "ivan demo": "tests/ivan/test_demo.py",
    "make test": "tests/conftest.py",
    "make bench": "benchmarks/suite.py",
    "make performance": "tests/benchmarks/test_performance_page.py",
    "make wheel": "tests/wheel/check_wheel.py",
    "make reproduce": "tests/benchmarks/test_reproduce.py",
    "ivan benchmark": "tests/ivan/benchmark/test_benchmark_cli.py",
    "python benchmarks/reproduce.py": "tests/benchmarks/test_reproduce.py",
    "python benchmarks/volume.py": "tests/benchmarks/test_volume.py",
    "python benchmarks/real_run.py": "tests/benchmarks/test_reproduce.py",
    "python benchmarks/quality.py": "tests/benchmarks/quality/test_quality_command.py",
    "python benchmarks/option_study.py": "tests/test_option_study.py",
    "python benchmarks/fusion_run.py": "tests/test_fusion_run.py",
    "torchrun": "tests/ivan/training/test_training_scale.py",
}
SMALL = [
    "--blocks",
    "1",
    "--growth",
    "4",
    "--epochs",
    "1",
    "--max-steps",
    "2",
    "--no-tensorboard",
    "--device",
    "cpu",
    "--threads",
    "1",
    "--quiet",
]
QUIET = ("synthesize", "evaluate", "fuse")


def command_lines(page: Path) -> list[str]:
    """The lines of a page's code blocks that are commands, without comments."""
    blocks = []

    def fence(found: re.Match[str]) -> str:
        if found[1] in ("", "sh", "bash", "console"):
            blocks.append(found[2])
        return ""

    text = page.read_text(encoding="utf-8")
    text = re.sub(r"^```(\w*)\n(.*?)^```", fence, text, flags=re.DOTALL | re.MULTILINE)
    blocks += re.findall(r"^    .*$", text, re.MULTILINE)
    starts = r"^ *((?:ivan|make|torchrun|python|pip|cp|\.ci/run|git|cd|tensorboard|jupyter)\b .*)$"
    return [line.strip() for block in blocks for line in re.findall(starts, block, re.MULTILINE)]


def variants(line: str) -> Iterator[list[str]]:
    """The words of a command line: without what stands in brackets, and with each bracket by itself."""
    line = shlex.join(shlex.split(line, comments=True)) if "[" not in line else line.partition(" #")[0]
    optional = re.findall(r"\[([^\[\]]*)\]", line)
    bare = re.sub(r"\[[^\[\]]*\]", "", line)
    for extra in ["", *optional]:
        for choice in next((part.split("|") for part in extra.split() if "|" in part), [""]):
            chosen = re.sub(r"\S*\|\S*", choice, extra)
            yield shlex.split(f"{bare} {chosen}")


def place(word: str) -> str:
    """Documentation's names as files of the phantoms."""
    names = {
        "RAW": "DICOM", "NEWDICOM": "DICOM", "NEW": "DATA", "TEST": "DATA", "TRAIN": "DATA",
        "FILE": "RUN/split.json", "20:70": "0:2",
    }  # fmt: skip
    head, slash, rest = word.partition("/")
    return names.get(word, names.get(head, head) + slash + rest)


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """DICOM of three patients, DATA of all modalities with lesion masks, and a public checkpoint."""
    root = tmp_path_factory.mktemp("phantoms")
    for number, name in enumerate(("anna", "ben", "carla", "dora", "emil")):
        for position, contrast in enumerate(("T1", "T2")):
            small = {"shape": (20, 24, 8), "spacing": (8.0, 8.0, 17.0)}
            folder = root / "DICOM" / name / contrast
            write_series(folder, contrast, patient=name, study=f"1.{number}", number=position, **small)
    affine = np.diag([-1.0, 1.0, 2.0, 1.0])
    for number, name in enumerate(("p1", "p2", "p3")):
        rng = np.random.default_rng(number)
        anatomy = np.zeros((18, 16, 3), np.float32)
        anatomy[3:15, 3:13] = rng.uniform(0.3, 1, (12, 10, 3))
        contrasts = {
            "T1": anatomy * 900, "PET": anatomy**2 * 300, "PD": anatomy**2 * 400, "MRI": anatomy * 700,
            "CT": np.where(anatomy > 0, (1.3 - anatomy) * 500, 0), "FLAIR": anatomy**0.5 * 500,
            "T2": np.where(anatomy > 0, (1.3 - anatomy) * 400, 0), "lesion": (anatomy > 0.9) * 1.0,
        }  # fmt: skip
        for modality, values in contrasts.items():
            path = root / "DATA" / modality / f"{name}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(values.astype(np.int16), affine), path)
    small = package.IVAN(blocks=8, growth=32)
    torch.save(dict(official_state_dict(small)), root / "latest.pth")
    return root


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_line_is_run(
    page: Path,
    phantoms: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(phantoms, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    ready: dict[str, bool] = {}  # runs that a line of this page, or this test for it, has made: do they fuse?

    def train(run: str, *words: str) -> None:
        """A small run, in place of one that an earlier line of the page made."""
        shutil.rmtree(run, ignore_errors=True)
        large = [] if "--ckpt" not in words else ["--blocks", "8", "--growth", "32"]
        assert ivan(["train", *words, *SMALL, *large]) == 0, words
        ready[run] = "fusion" in words

    def prepare(*words: str) -> None:
        """Into a folder of its own; the phantoms' other modalities then join it for later lines."""
        out = Path(words[words.index("--out") + 1])
        shutil.rmtree(out, ignore_errors=True)
        assert ivan(["prepare", *words, "--quiet"]) == 0, words
        if out == Path("DATA"):
            shutil.copytree(phantoms / "DATA", out, dirs_exist_ok=True)

    def need(words: list[str]) -> None:
        """What a line takes for granted: data sets, runs and results of other pages."""
        if (
            any(word.startswith("DATA/dataset.json") for word in words)
            and not Path("DATA/dataset.json").exists()
        ):
            prepare("DICOM", "--out", "DATA", "--test", "0.2")
        run = words[words.index("--run") + 1] if "--run" in words else ""
        if "--resume" in words:
            run = words[words.index("--out") + 1]
        fuses = words[0] == "fuse" or "--state" in words
        if run and (run not in ready or (fuses and not ready[run])):
            task = (
                ["--task", "fusion", "--from", "MRI", "--from", "CT"]
                if fuses
                else ["--from", "T1", "--to", "T2"]
            )
            train(run, "--data", "DATA", *task, "--out", run)
        if "--prediction" in words and not Path("OUT/T2").exists():
            need(["synthesize", "--run", "RUN"])
            assert ivan(["synthesize", "--run", "RUN", "--data", "DATA", "--out", "OUT", "--quiet"]) == 0
        if words[0] == "fuse" and "--inverse" in words and not Path("OUT/fused").exists():
            assert ivan(["fuse", "--run", run, "--data", "DATA", "--out", "OUT", "--quiet"]) == 0

    for line in command_lines(page):
        known = [start for start in ELSEWHERE if line.startswith(start)]
        if known:
            assert (REPO / ELSEWHERE[known[0]]).exists(), ELSEWHERE[known[0]]
            continue
        if page.name == "quality.md" and line.startswith("cp "):
            continue  # an example for a data set that is not here
        assert line.startswith("ivan "), f"{page.name}: no test is known to run: {line}"
        for words in variants(line):
            words = [place(word) for word in words[1:]]
            need(words)
            if words[0] == "train" and "--resume" not in words:
                if "--out_path" in words:
                    shutil.rmtree(words[words.index("--out_path") + 1], ignore_errors=True)
                    assert ivan([*words, *SMALL, "--blocks", "8", "--growth", "32"]) == 0, (
                        line
                    )  # as latest.pth
                else:
                    if "--devices" in words:  # several processes: test_training_scale.py
                        words[words.index("--devices") + 1] = "1"
                    train(words[words.index("--out") + 1], *words[1:])
                continue
            if words[0] == "prepare":
                prepare(*words[1:])
                continue
            if words[0] == "test" and not Path("EXP").exists() and "--ckpt" not in words:
                task = ["--task", "1to1", "--root1", "DATA/T1", "--root2", "DATA/T2", "--out_path", "EXP"]
                assert ivan(["train", *task, *SMALL]) == 0
            if words[0] in QUIET or "--resume" in words:
                words.append("--quiet")
            assert ivan(words) == 0, f"{line}: {capsys.readouterr().err}"


def test_the_reader_of_pages_sees_commands(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "Say\n\n    ivan train --data DATA  # why\n\n```sh\nmake demo\n```\n```python\nmake = 1\n```\n"
    )
    assert sorted(command_lines(page)) == ["ivan train --data DATA  # why", "make demo"]
    assert list(itertools.chain(variants("ivan fuse --out A [--method a|b] [--no-state]"))) == [
        ["ivan", "fuse", "--out", "A"],
        ["ivan", "fuse", "--out", "A", "--method", "a"],
        ["ivan", "fuse", "--out", "A", "--method", "b"],
        ["ivan", "fuse", "--out", "A", "--no-state"],
    ]
    assert sum(len(command_lines(page)) for page in PAGES) > 60
