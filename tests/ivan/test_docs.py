"""The documentation is true: commands and Python blocks run, links lead somewhere, pages are up to date."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer
from dicom_phantom import write_series

from ivan.cli import run as ivan
from ivan.cli.app import app

REPO = Path(__file__).resolve().parents[2]
PAGES = [REPO / "README.md", *sorted((REPO / "docs").glob("*.md"))]
COMMAND = typer.main.get_command(app)


def blocks(page: Path) -> list[tuple[str, str]]:
    """(language, text) of the code blocks of a page: fenced ones, and indented ones as language ""."""
    text = page.read_text(encoding="utf-8")
    found = re.findall(r"^```(\w*)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    rest = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    found += [("", block) for block in re.findall(r"(?:^    .*\n?)+", rest, re.MULTILINE)]
    return found


def commands(page: Path, inline_too: bool = True) -> list[list[str]]:
    """The `ivan`, `make` and `torchrun` command lines of a page, in order, without their comments."""
    text = page.read_text(encoding="utf-8")
    lines = re.findall(r"^    ((?:ivan|make|torchrun) .*)$", text, re.MULTILINE)
    inline = [c for c in re.findall(r"`((?:ivan|make) [a-z][^`]*)`", text) if inline_too and "..." not in c]
    return [
        shlex.split(line, comments=True) for line in [*lines, *(line.replace("\n", " ") for line in inline)]
    ]


def arguments(line: list[str]) -> list[str]:
    """Arguments of `ivan` in a command line, without the brackets of optional parts."""
    start = line.index("ivan") + 1
    flat = " ".join(part for part in line[start:] if part != "|")
    flat = re.sub(r"\[\.\.\.\]|\.\.\.", "", flat)
    flat = re.sub(r"[\[\]]", "", flat)
    return flat.replace("both|forward|inverse", "both").replace("reference|each|none", "each").split()


def parse(command: Any, words: list[str], name: str) -> None:
    """Parse options as `ivan` would, without running anything; required ones may be missing in prose."""
    if isinstance(command, typer.core.TyperGroup):
        assert words[0] in command.commands, f"ivan has no command '{words[0]}'"
        parse(command.commands[words[0]], words[1:], words[0])
        return
    flags = {flag for option in command.params for flag in [*option.opts, *option.secondary_opts]}
    for word in words:
        if word.startswith("--"):
            assert word.split("=")[0] in flags | {"--help", "--debug"}, f"ivan {name} has no option {word}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_exists_with_its_options(page: Path) -> None:
    targets = set(re.findall(r"^([a-z][a-z-]*):", (REPO / "Makefile").read_text(), re.MULTILINE))
    for line in commands(page):
        if line[0] == "make":
            assert line[1] in targets, f"{page.name}: make {line[1]}"
        elif line[1:2] != ["COMMAND"]:
            parse(COMMAND, arguments(line), "")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_blocks_compile_and_use_names_that_exist(page: Path) -> None:
    import importlib

    for language, text in blocks(page):
        if language != "python":
            continue
        compile(text, str(page), "exec")
        for name in re.findall(r"\bivan\.([a-z_A-Z]+)\(", text):
            assert hasattr(importlib.import_module("ivan"), name), f"{page.name}: ivan.{name}"
        for module, names in re.findall(r"^from (ivan[\w.]*) import (.*?)$", text, re.MULTILINE):
            for name in names.strip("()").split(","):
                found = importlib.import_module(module)
                assert hasattr(found, name.strip()) or importlib.util.find_spec(f"{module}.{name.strip()}")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, REPO / "docs" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["make_api", "first_steps"])
def test_written_pages_are_up_to_date(name: str) -> None:
    module = load(name)
    assert module.TARGET.read_text(encoding="utf-8") == module.build(), "run: make docs"


def test_notebook_runs(tmp_path: Path) -> None:
    import nbformat
    from nbclient import NotebookClient

    book = nbformat.read(REPO / "docs" / "first_steps.ipynb", as_version=4)
    NotebookClient(
        book, timeout=240, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    outputs = [output for cell in book.cells for output in cell.get("outputs", [])]
    assert any("inverse T1" in output.get("text", "") for output in outputs)
    assert any("image/png" in output.get("data", {}) for output in outputs)


def replaced(words: list[str], places: dict[str, str]) -> list[str]:
    """A command with the documentation's names of folders replaced by real ones."""
    return [re.sub(r"^(" + "|".join(places) + r")(?=$|[/:])", lambda m: places[m[0]], word) for word in words]


@pytest.mark.parametrize("page", ["tutorial.md", "public-code.md"])
def test_commands_of_the_walkthroughs_run(
    page: str, tmp_path: Path, tiny_options: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each `ivan` line of the page, in order; trainings are made small."""
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(("anna", "ben", "carla", "dora", "emil")):
        for position, contrast in enumerate(("T1", "T2")):
            folder = tmp_path / "DICOM" / name / contrast
            small = {"shape": (20, 24, 8), "spacing": (8.0, 8.0, 17.0)}
            write_series(folder, contrast, patient=name, study=f"1.{number}", number=position, **small)
    write_series(tmp_path / "NEWDICOM", "T1", patient="nora", shape=(20, 24, 8), spacing=(8.0, 8.0, 17.0))
    names = ("DICOM", "DATA", "NEWDICOM", "NEWDATA", "REGISTERED", "RUN", "TESTED", "OUT", "EXP")
    places = {name: str(tmp_path / name) for name in names}
    places |= {
        "NEW": str(tmp_path / "DATA"),
        "TUNED": str(tmp_path / "TUNED"),
        "THEIRS": str(tmp_path / "THEIRS"),
    }
    if page != "tutorial.md":
        assert ivan(["prepare", str(tmp_path / "DICOM"), "--out", places["DATA"], "--quiet"]) == 0
    ran = 0
    for line in commands(REPO / "docs" / page, inline_too=False):
        if line[0] != "ivan" or ("--out" not in line and "--out_path" not in line):
            continue
        if "latest.pth" in line:
            continue  # public checkpoints have tests of their own (test_official.py)
        words = replaced(line[1:], places)
        if words[0] == "train" and "--resume" not in words:
            words += [*tiny_options, "--max-steps", "2"]
        elif words[0] in ("train", "prepare", "synthesize", "evaluate"):
            words.append("--quiet")
        assert ivan(words) == 0, line
        ran += 1
    assert ran >= 3
    if page == "tutorial.md":
        assert "<html" in (tmp_path / "TESTED" / "report.html").read_text()
        assert json.loads((tmp_path / "DATA" / "dataset.json").read_text())["test"]
