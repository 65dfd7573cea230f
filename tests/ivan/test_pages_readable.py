"""The report and the quality page in both colour schemes, on a telephone, with long and hostile names."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from browser import NEEDS_CHROMIUM, drive
from dicom_phantom import grid, head

from ivan.prepare import prepare
from ivan.report import CaseResult, Column, MetricRow, MetricTable, Synthesis, write_report

pytestmark = NEEDS_CHROMIUM

CONTRAST = """
    const luminance = (text) => {
      const parts = text.match(/[\\d.]+/g).slice(0, 3).map((v) => v / 255);
      const [r, g, b] = parts.map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
      return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const ground = (node) => {
      for (; node; node = node.parentElement) {
        const colour = getComputedStyle(node).backgroundColor;
        if (colour !== "rgba(0, 0, 0, 0)") return colour;
      }
      return "rgb(255, 255, 255)";
    };
    const ratio = (node, property) => {
      const one = luminance(getComputedStyle(node)[property]), other = luminance(ground(node));
      return (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
    };
    const hasText = (node) => [...node.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    const all = [...document.querySelectorAll("main *, header *, footer *")];
    const shown = all.filter((node) => hasText(node) && node.checkVisibility());
    const texts = shown.filter((node) => !node.closest("svg, .stage, option"));
    result.texts = texts.length;
    result.faintest = Math.min(...texts.map((node) => ratio(node, "color")));
    const paths = [...document.querySelectorAll("#charts path")];
    result.lines = Math.min(...paths.map((node) => ratio(node, "stroke")));
    result.labels = Math.min(...[...document.querySelectorAll("#charts text")].map((n) => ratio(n, "fill")));
    result.ground = luminance(ground(document.querySelector("main")));
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    """A page with everything that has a colour: cards, table, curves, warnings, notes, another method."""
    t1 = np.random.default_rng(0).uniform(0, 1, (20, 24, 4)).astype(np.float32)
    cases = [CaseResult("a", {"T1": t1, "T2": t1}, [Synthesis("T2", t1, ("T1",), "forward", t1)])]
    rows = [MetricRow("a", "T2", {"psnr": 30.0}), MetricRow("a", "T2", {"psnr": 20.0}, method="table")]
    names = ("total", "forward", "reverse")
    history = [{"step": s, "split": "train", **dict.fromkeys(names, 1 / s)} for s in range(1, 50)]
    return write_report(
        tmp_path_factory.mktemp("report") / "report.html",
        title="Colours",
        summary=["A summary."],
        config={"lr": 1e-4},
        cases=cases,
        history=history,
        metrics=MetricTable([Column("psnr", "PSNR", "volume", "dB")], rows),
        notes=["A note."],
        warnings=["A warning."],
        simulated=["T2"],
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_is_readable_in_both_colour_schemes(page: Path, tmp_path: Path, scheme: str) -> None:
    """WCAG 2.1: a contrast of 4.5 for text and of 3 for lines."""
    chosen = f"--blink-settings=preferredColorScheme={0 if scheme == 'dark' else 1}"
    result = drive(page, tmp_path, CONTRAST, "", chosen)
    assert result["texts"] > 40
    assert result["faintest"] >= 4.5
    assert result["labels"] >= 4.5
    assert result["lines"] >= 3
    assert (result["ground"] < 0.1) == (scheme == "dark")


@pytest.fixture(scope="module")
def long_name_page(tmp_path_factory) -> Path:
    t1 = np.random.default_rng(0).uniform(0, 1, (40, 48, 6)).astype(np.float32)
    name = "very-" * 40
    cases = [CaseResult(name, {"T1": t1}, [Synthesis("T2", t1, ("T1",), "forward", t1)])]
    rows = [MetricRow(name, "T2", {"psnr": 30.0})]
    return write_report(
        tmp_path_factory.mktemp("report") / "long.html",
        title="Long " + name,
        cases=cases,
        history=[{"step": s, "split": "train", "total": 1 / s} for s in range(1, 50)],
        metrics=MetricTable([Column("psnr", "PSNR", "volume", "dB")], rows),
        warnings=[f"{name}: a warning"],
    )


def test_long_names_make_no_page_wider_than_a_telephone(long_name_page: Path, tmp_path: Path) -> None:
    steps = """
        const box = (selector) => document.querySelector(selector).getBoundingClientRect();
        result.window = innerWidth; result.page = document.documentElement.scrollWidth;
        result.select = box("#v-case").right; result.viewer = box(".viewer").right;
        const stages = [...document.querySelectorAll(".stage")];
        const tops = stages.map((stage) => Math.round(stage.getBoundingClientRect().top));
        result.rows = new Set(tops).size; result.panels = tops.length;
        """
    result = drive(long_name_page, tmp_path, steps, "", "--window-size=400,800")
    assert result["page"] <= result["window"] <= 500  # no window of Chromium is narrower
    assert result["select"] < result["viewer"]
    assert result["rows"] < result["panels"]  # side by side: all are seen with their slider


def test_one_chart_is_no_poster(page: Path, tmp_path: Path) -> None:
    steps = 'result.size = document.querySelector("#charts svg").getBoundingClientRect().width;'
    assert drive(page, tmp_path, steps, "", "--window-size=1300,900")["size"] < 700


def test_quality_page_of_prepare(tmp_path: Path) -> None:
    """Sorting, links to the overlays of hostile names, no errors, readable in the dark."""
    affine = np.diag([8.0, 8.0, 12.0, 1.0])
    affine[:3, 3] = (-92, -104, -84)
    for name, shift in (("plain", 0.0), ("<b> & #50%20", 12.0)):
        for contrast in ("T1", "T2"):
            path = tmp_path / "raw" / contrast / f"{name}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            points = grid((24, 27, 15), affine) + (shift if contrast == "T2" else 0.0)
            nib.save(nib.Nifti1Image(head(points, contrast), affine), path)
    prepare(tmp_path / "raw", tmp_path / "out", progress=False)
    page = tmp_path / "ready.html"  # it has no viewer to wait for
    text = (tmp_path / "out" / "quality.html").read_text(encoding="utf-8")
    page.write_text(text.replace("<html", '<html data-viewer="ready"'), encoding="utf-8")
    steps = """
        const rows = () => [...document.querySelectorAll("tbody tr")].filter((row) => row.cells.length > 4);
        const first = () => rows()[0].cells[0].textContent;
        const head = [...document.querySelectorAll("th button")].find((b) => b.textContent === "Warnings");
        head.click(); result.least = first(); head.click(); result.most = first();
        rows()[0].querySelector("a").click(); await tick();
        result.there = document.querySelector(":target h3").textContent;
        result.drawn = [...document.images].every((image) => image.naturalWidth > 100);
        """
    # The texts of the page, not the lines of curves that it does not have.
    contrast = CONTRAST.partition("const paths")[0]
    result = drive(page, tmp_path, steps + contrast, "", "--blink-settings=preferredColorScheme=0")
    assert (result["least"], result["most"]) == ("plain", "<b> & #50%20")
    assert result["there"].startswith("<b> & #50%20")
    assert result["drawn"]
    assert result["faintest"] >= 4.5
