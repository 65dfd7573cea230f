"""The report in a real browser: slider, keys, direction, sorting; no console errors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from browser import NEEDS_CHROMIUM, browse, drive

from ivan.report import CaseResult, Column, MetricRow, MetricTable, Synthesis, write_report
from ivan.report.images import display_slices

pytestmark = NEEDS_CHROMIUM


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    """Two cases; slice k of T1 has the value 10 k, of T2 100; the prediction is 5 or 2 too high."""
    cases = []
    for name in ("first", "second <b>"):
        t1 = np.zeros((20, 24, 8), np.float32)
        t1[4:16, 4:20] = 10 * np.arange(1, 9)
        t2 = np.where(t1 > 0, 100, 0).astype(np.float32)
        t2[4, 4] = 50
        high = np.where(np.arange(20)[:, None, None] < 10, 5, 2) * (t2 > 0)
        forward = Synthesis("T2", t2 + high, ("T1",), "forward", t2)
        cases.append(
            CaseResult(name, {"T1": t1, "T2": t2}, [forward, Synthesis("T1", t1, ("T2",), "inverse", t1)])
        )
    rows = [
        MetricRow(f"case {i}", "T2", {"psnr": v})
        for i, v in enumerate((9.5, 26.0, None, float("inf"), 101.0))
    ]
    rows.append(MetricRow("second <b>", "T1", {"psnr": -1.0}, "inverse"))
    return write_report(
        tmp_path_factory.mktemp("report") / "report.html",
        title="Browser",
        history=[{"step": s, "split": "train", "total": 1 / s} for s in range(1, 50)],
        cases=cases,
        metrics=MetricTable([Column("psnr", "PSNR", "volume", "dB")], rows),
    )


def test_slider_keys_and_wheel_change_the_slice(page: Path, tmp_path: Path) -> None:
    result = drive(
        page,
        tmp_path,
        """
        result.panels = canvases().length;
        await slide("v-slice", 0); result.first = sums()[0]; result.where = $("v-where").textContent;
        await slide("v-slice", 7); result.last = sums()[0];
        await key("ArrowLeft"); result.left = $("v-slice").value;
        await key("Home"); result.home = $("v-slice").value;
        await key("ArrowUp"); result.up = $("v-slice").value;
        const wheel = new WheelEvent("wheel", { deltaY: 1, bubbles: true, cancelable: true });
        document.querySelector(".stage").dispatchEvent(wheel);
        await tick(); result.wheel = $("v-slice").value;
        $("v-next").click(); await tick(); result.next = $("v-slice").value; result.hash = location.hash;
        """,
    )
    assert result["panels"] == 4  # source, prediction, reference, error
    assert result["last"] == pytest.approx(8 * result["first"], rel=0.02)
    assert result["where"].startswith("z 0")
    assert [result[k] for k in ("left", "home", "up", "wheel", "next")] == ["6", "0", "1", "2", "3"]
    assert "slice=3" in result["hash"]


def test_colours_of_a_fused_image(tmp_path: Path) -> None:
    """The source in colour, and what was fused with it, in its colours; the other source in gray."""
    from ivan.data.colour import chroma, luma

    rng = np.random.default_rng(0)
    gray = rng.uniform(0.3, 0.7, (6, 5, 2))
    rgb = gray[..., None] + rng.uniform(-0.1, 0.1, (6, 5, 2, 3))
    images = {"MRI": gray.astype(np.float32), "PET": luma(rgb)}
    syntheses = [Synthesis("fused", images["PET"], ("MRI", "PET"))]
    case = CaseResult("c", images, syntheses, chroma=chroma(rgb), coloured=("PET", "fused"))
    page = write_report(tmp_path / "report.html", title="Colours", cases=[case])
    result = drive(
        page,
        tmp_path,
        """
        await slide("v-slice", 1); result.panels = canvases().map(rgba);
        await slide("v-level", 60); result.dark = canvases().map(rgba);
        """,
    )
    mri, pet, fused = (np.array(p).reshape(5, 6, 4)[..., :3] for p in result["panels"])
    expected = np.stack([display_slices(rgb[..., c])[1] for c in range(3)], -1) * 255
    assert np.ptp(mri, axis=-1).max() == 0
    assert np.abs(pet - expected).max() < 4  # three roundings to 8 bits
    assert np.array_equal(fused, pet)
    darker = np.array(result["dark"][1]).reshape(5, 6, 4)[..., :3]
    assert np.abs(pet - 25.5 - darker).max() < 4  # window and level move the luma and keep the colours


def test_window_level_and_error_range_change_the_pixels(page: Path, tmp_path: Path) -> None:
    result = drive(
        page,
        tmp_path,
        """
        result.start = sums();
        await slide("v-level", 150); result.dark = sums();
        $("v-reset").click(); await tick(); result.reset = sums();
        await slide("v-gain", 100); result.gain = sums();
        """,
    )
    start, dark, reset, gain = (result[k] for k in ("start", "dark", "reset", "gain"))
    assert dark[1] < start[1]
    assert reset == start
    assert gain[:3] == start[:3]
    assert gain[3] != start[3]


def test_fragment_chooses_case_direction_and_slice(page: Path, tmp_path: Path) -> None:
    result = drive(
        page,
        tmp_path,
        """
        const labels = () => canvases().map((c) => c.getAttribute("aria-label"));
        result.where = $("v-where").textContent; result.titles = labels();
        $("v-view").value = 0; $("v-view").dispatchEvent(new Event("change")); await tick();
        result.forward = labels(); result.hash = location.hash;
        """,
        "#case=second%20%3Cb%3E&direction=inverse&slice=2",
    )
    assert result["where"].startswith("z 2")
    assert result["titles"][:2] == ["T2, source, case second <b>", "T1, prediction, case second <b>"]
    assert result["forward"][1] == "T2, prediction, case second <b>"
    assert "direction=forward" in result["hash"]


def test_keys_change_window_direction_and_case(page: Path, tmp_path: Path) -> None:
    result = drive(
        page,
        tmp_path,
        """
        const labels = () => canvases().map((c) => c.getAttribute("aria-label"));
        result.start = sums();
        await key("["); await key("["); result.window = $("v-window").value; result.narrow = sums();
        await key("="); result.level = $("v-level").value;
        await key("0"); result.reset = [$("v-window").value, $("v-level").value]; result.back = sums();
        await key("d"); result.inverse = labels()[1];
        await key("d"); await key("n"); result.second = labels()[0];
        await key("p"); result.first = labels()[0];
        """,
    )
    assert result["window"] == "90"
    assert result["level"] == "53"
    assert result["reset"] == ["100", "50"]
    assert result["narrow"] != result["start"] == result["back"]
    assert result["inverse"] == "T1, prediction, case first"
    assert result["second"] == "T1, source, case second <b>"
    assert result["first"] == "T1, source, case first"


def test_table_leads_to_the_case_in_the_viewer(page: Path, tmp_path: Path) -> None:
    result = drive(
        page,
        tmp_path,
        """
        const links = [...document.querySelectorAll("table.sortable a")];
        result.links = links.map((a) => a.textContent);
        links[0].click(); await tick(); await tick();
        result.now = canvases()[1].getAttribute("aria-label"); result.top = window.scrollY > 0;
        """,
    )
    assert result["links"] == ["second <b>"]
    assert result["now"] == "T1, prediction, case second <b>"
    assert result["top"]


def test_table_sorts_by_value(page: Path, tmp_path: Path) -> None:
    result = drive(
        page,
        tmp_path,
        """
        const head = document.querySelector("th.number button");
        const rows = () => [...document.querySelectorAll("table.sortable tbody tr")];
        const order = () => rows().map((row) => row.cells[0].textContent);
        head.click(); result.up = order(); head.click(); result.down = order();
        result.paths = document.querySelectorAll("#charts svg path").length;
        """,
    )
    assert result["up"] == ["second <b>", "case 0", "case 1", "case 4", "case 3", "case 2"]
    assert result["down"] == ["case 3", "case 4", "case 1", "case 0", "second <b>", "case 2"]
    assert result["paths"] == 1


def test_console_errors_would_be_seen(page: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.html"
    bad.write_text(
        page.read_text(encoding="utf-8").replace("</body>", "<script>nothing.here</script></body>")
    )
    assert browse(bad.as_uri(), tmp_path / "profile", "--dump-dom")[1]
    blocked = tmp_path / "blocked.html"
    remote = '<img src="http://127.0.0.1:9/a.png"></body>'
    blocked.write_text(page.read_text(encoding="utf-8").replace("</body>", remote))
    assert "Content Security Policy" in " ".join(browse(blocked.as_uri(), tmp_path / "p2", "--dump-dom")[1])


@pytest.fixture(scope="module")
def odd_page(tmp_path_factory) -> Path:
    """Slices 25 times as high as wide, and a case of one slice."""
    cases = []
    for name, shape in (("tall", (12, 300, 5)), ("single", (20, 24, 1))):
        t1 = np.random.default_rng(0).uniform(0, 1, shape).astype(np.float32)
        cases.append(CaseResult(name, {"T1": t1}, [Synthesis("T2", t1, ("T1",), "forward", t1)]))
    rows = [MetricRow("tall", "T2", {f"metric {k}": 1.0 for k in range(16)})]
    columns = [Column(f"metric {k}", f"a metric with a name {k}", "volume", "dB") for k in range(16)]
    out = tmp_path_factory.mktemp("report") / "odd.html"
    return write_report(out, title="Odd", cases=cases, metrics=MetricTable(columns, rows))


def test_the_slider_stays_in_sight_of_a_tall_slice(odd_page: Path, tmp_path: Path) -> None:
    steps = """
        const box = document.querySelector(".stage").getBoundingClientRect();
        result.height = box.height / innerHeight; result.ratio = box.height / box.width;
        const roll = () => {
          const wheel = new WheelEvent("wheel", { deltaY: 1, bubbles: true, cancelable: true });
          return document.querySelector(".stage").dispatchEvent(wheel);
        };
        result.scrolls = roll(); await key("n"); result.single = roll();
        """
    result = drive(odd_page, tmp_path, steps)
    assert result["height"] < 0.8
    assert result["ratio"] == pytest.approx(25, rel=0.15)  # borders
    assert not result["scrolls"]  # the wheel turns slices
    assert result["single"]  # and scrolls the page where there is one slice


def test_a_wide_table_is_printed_whole(odd_page: Path, tmp_path: Path) -> None:
    """Print rules, applied to the screen at a page's width: no part of the table may hide in a scroller."""
    copy = tmp_path / "print.html"
    text = odd_page.read_text(encoding="utf-8")
    assert "@media print" in text
    copy.write_text(text.replace("@media print", "@media all"), encoding="utf-8")
    result = drive(
        copy,
        tmp_path,
        """
        const scroller = document.querySelector("table.sortable").parentElement;
        result.overflow = getComputedStyle(scroller).overflowX;
        result.shown = ["v-prev", "v-window", "v-case", "v-where"].filter((id) => $(id).offsetParent);
        """,
    )
    assert result == {"overflow": "visible", "shown": ["v-case", "v-where"]}  # which case and slice it is
