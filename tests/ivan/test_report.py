"""The report: one self-contained, escaped HTML page whose numbers, images and curves are those given."""

from __future__ import annotations

import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ivan.errors import InputError, RunError
from ivan.report import CaseResult, Column, MetricRow, MetricTable, Synthesis, write_report
from ivan.report.curves import MAX_POINTS, charts
from ivan.report.images import display_slices, slice_psnr
from ivan.report.tables import format_number

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>&\"'{{js}}"
VOID = {"meta", "link", "input", "img", "br", "hr"}


class Page(HTMLParser):
    """Collects tags and attributes; fails on tags that do not nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> without a start"
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def make_case(name: str = "sub-01", shape: tuple[int, int, int] = (12, 14, 6), **more) -> CaseResult:
    rng = np.random.default_rng(0)
    t1, t2 = rng.uniform(1, 100, (2, *shape)).astype(np.float32)
    syntheses = [
        Synthesis("T2", t2 + 2, ("T1",), "forward", t2, data_range=100.0),
        Synthesis("T1", t1 - 1, ("T2",), "inverse", t1),
    ]
    return CaseResult(name, {"T1": t1, "T2": t2}, syntheses, spacing=(2.0, 1.0, 3.0), **more)


TABLE = MetricTable(
    columns=[
        Column("psnr", "PSNR", "10 log10(range^2 / MSE), range 1, volume", "dB"),
        Column("nmse", "NMSE", "sum (R-P)^2 / sum R^2", better="lower"),
        Column("ag", "AG ratio", "prediction / reference", better="one"),
    ],
    rows=[
        MetricRow("sub-01", "T2", {"psnr": 26.1234, "nmse": 0.0123, "ag": 1.4}),
        MetricRow("sub-01", "T2", {"psnr": 24.5678, "nmse": 0.0345, "ag": 0.9}, method="pixelwise table"),
        MetricRow("sub-01", "T1", {"psnr": float("inf"), "nmse": None}, direction="inverse"),
    ],
)
HISTORY = [
    {"step": s, "split": "train", "total": 1 / s, "forward": 0.5 / s, "reverse": 0.5 / s}
    for s in range(1, 30)
] + [{"step": s, "split": "validate", "psnr_forward": 20 + s, "psnr_reverse": None} for s in (10, 20)]


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    return write_report(
        folder / "report.html",
        title=f"Run {HOSTILE}",
        summary=[f"Summary {HOSTILE}"],
        config={"sources": ["T1"], "nested": {HOSTILE: HOSTILE}},
        history=HISTORY,
        cases=[make_case(), make_case(HOSTILE, plane="sagittal")],
        metrics=TABLE,
        environment={"torch": "2.13"},
        notes=[f"note {HOSTILE}"],
        warnings=[f"warning {HOSTILE}"],
        simulated=["T2"],
    )


def payload(page: Path) -> dict:
    text = page.read_text(encoding="utf-8")
    return json.loads(re.search(r'id="report-data">(.*?)</script>', text, re.DOTALL).group(1))


def test_page_parses_and_loads_nothing(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    parsed = Page(text)
    assert not re.findall(r"https?://(?!www\.w3\.org/2000/svg)", text)  # that one is a namespace
    assert not re.search(r"@import|url\(", text)
    for tag, attributes in parsed.tags:
        for name in ("src", "href", "action", "data", "srcset"):
            value = attributes.get(name) or ""
            assert not value or value.startswith(("#", "data:")), (tag, name, value[:50])
    policy = next(a["content"] for t, a in parsed.tags if t == "meta" and "http-equiv" in a)
    assert "default-src 'none'" in policy


def test_hostile_names_stay_text(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    parsed = Page(text)
    assert "<img" not in text
    assert "<script>alert" not in text
    assert [a for t, a in parsed.tags if t == "script"] == [
        {"type": "application/json", "id": "report-data"},
        {},
    ]
    assert not [a for _, a in parsed.tags if any(name.startswith("on") for name in a)]
    assert any(HOSTILE in piece for piece in parsed.texts)
    assert text.count('"use strict"') == 3  # a {{js}} in a name was not filled in
    assert payload(page)["cases"][1]["name"] == HOSTILE


def test_numbers_protocols_and_label_are_there(page: Path) -> None:
    words = " ".join(Page(page.read_text(encoding="utf-8")).texts)
    for expected in (
        "26.12",
        "24.57",
        "0.0345",
        "\u221e",
        "pixelwise table",
        "range 1, volume",
        "2.13",
        "Simulated contrast",
    ):
        assert expected in words, expected


def test_best_method_is_marked(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    cells = dict(re.findall(r'<td class="(number[^"]*)" data-value="([^"]+)"', text))
    marked = re.findall(r'<td class="number best" data-value="([^"]+)"', text)
    assert marked == ["26.1234", "0.0123", "0.9"]  # AG ratio: the one nearer to 1
    assert cells


def test_sprites_hold_the_images_of_the_right_slices(page: Path) -> None:
    case = make_case()
    shown = payload(page)["cases"][0]
    image = shown["images"]["image T1"]
    sheet = np.asarray(Image.open(io.BytesIO(base64.b64decode(image["src"].split(",")[1]))))
    height, width, columns = shown["height"], shown["width"], shown["columns"]
    for number, index in enumerate(shown["slices"]):
        row, column = divmod(number, columns)
        pixels = sheet[row * height : (row + 1) * height, column * width : (column + 1) * width]
        values = image["low"] + pixels / 255 * (image["high"] - image["low"])
        expected = np.minimum(display_slices(case.images["T1"])[index], image["high"])
        assert np.abs(values - expected).max() <= (image["high"] - image["low"]) / 500
    error = shown["images"]["error 0"]
    sheet = np.asarray(Image.open(io.BytesIO(base64.b64decode(error["src"].split(",")[1]))))
    assert (sheet[:height, :width] == 254).all()  # prediction = reference + 2 everywhere
    assert error["high"] == pytest.approx(2, rel=1e-4)
    assert shown["spacing"] == [2.0, 1.0]
    assert [v["direction"] for v in shown["views"]] == ["forward", "inverse"]
    assert shown["views"][0]["psnr"][0] == pytest.approx(10 * np.log10(100**2 / 4), abs=0.01)


def test_display_is_radiological() -> None:
    volume = np.zeros((3, 4, 5))
    volume[2, 3, 4] = 1  # right, anterior, superior
    assert display_slices(volume, "axial")[4, 0, 0] == 1
    assert display_slices(volume, "coronal")[3, 0, 0] == 1
    assert display_slices(volume, "sagittal")[2, 0, 0] == 1
    plain = display_slices(volume[:, :, 4:], "axial", oriented=False)
    assert plain.shape == (1, 4, 3)
    assert plain[0, 0, 2] == 1


def test_slice_psnr_leaves_out_empty_and_equal_slices() -> None:
    reference = np.zeros((3, 4, 4), np.float32)
    reference[1:, 0] = 1
    prediction = reference.copy()
    prediction[:2] += 0.5
    assert slice_psnr(prediction, reference, 1.0) == [None, pytest.approx(6.02, abs=0.01), None]


def big_cases(shape: tuple[int, int, int]) -> list[CaseResult]:
    volume = np.random.default_rng(0).uniform(1, 2, shape).astype(np.float32)
    return [CaseResult(f"big-{i}", {"T1": volume}, [Synthesis("T2", volume, ("T1",))]) for i in range(3)]


def test_big_cases_are_thinned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ivan.report.write.PIXEL_BUDGET", 40 * 40 * 9 * 3 * 3)
    out = write_report(tmp_path / "report.html", title="big", cases=big_cases((40, 40, 30)))
    assert [len(case["slices"]) for case in payload(out)["cases"]] == [9, 9, 9]
    assert "At most 9 slices of a case are shown, evenly spread." in out.read_text(encoding="utf-8")
    monkeypatch.setattr("ivan.report.write.PIXEL_BUDGET", 40 * 40 * 6 * 3 * 2)
    out = write_report(tmp_path / "report.html", title="big", cases=big_cases((40, 40, 30)))
    assert [len(case["slices"]) for case in payload(out)["cases"]] == [6, 6]
    assert "the first 2 of 3 cases" in out.read_text(encoding="utf-8")


def test_the_budget_counts_what_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Single slices cost one slice, and black borders nothing."""
    monkeypatch.setattr("ivan.report.write.PIXEL_BUDGET", 40 * 40 * 3 * 3)
    single = big_cases((40, 40, 1))
    assert len(payload(write_report(tmp_path / "single.html", title="2D", cases=single))["cases"]) == 3
    volume = np.zeros((40, 40, 30), np.float32)
    volume[15:25, 15:29] = 1  # drawn with a margin of 3: 16 x 20
    case = CaseResult("small head", {"T1": volume}, [Synthesis("T2", volume, ("T1",))])
    (shown,) = payload(write_report(tmp_path / "head.html", title="head", cases=[case]))["cases"]
    assert (shown["width"], shown["height"]) == (16, 20)
    assert len(shown["slices"]) == 40 * 40 * 3 * 3 // (16 * 20 * 3)


def test_pure_noise_stays_below_the_promised_size(tmp_path: Path) -> None:
    out = write_report(tmp_path / "report.html", title="big", cases=big_cases((256, 256, 200)))
    assert out.stat().st_size < 16e6


def test_charts_drop_what_cannot_be_drawn() -> None:
    records = [
        {"step": 1, "split": "train", "total": 0.0},
        {"step": 2, "split": "train", "total": float("nan")},
        {"step": 3, "split": "train", "total": 0.5},
        {"split": "train", "total": 1.0},
        {"step": 3, "split": "validate", "psnr_forward": float("inf"), "psnr_reverse": 12},
    ]
    loss, psnr = charts(records)
    assert [s["points"] for s in loss["series"]] == [[[3.0, 0.5]]]
    assert [(s["name"], s["points"]) for s in psnr["series"]] == [("reverse, validation", [[3.0, 12.0]])]
    long = charts({"step": s, "split": "train", "total": 1.0 + s % 2} for s in range(1, 5001))
    points = long[0]["series"][0]["points"]
    assert len(points) <= MAX_POINTS
    assert np.mean([p[1] for p in points]) == pytest.approx(1.5, abs=0.02)


def test_numbers_are_readable() -> None:
    values = (26.1234, 0.91234, 0.0000123, float("inf"), float("nan"), None, 0.0)
    assert [format_number(v) for v in values] == [
        "26.12", "0.9123", "1.23e-05", "\u221e", "\u2013", "\u2013", "0.0000"
    ]  # fmt: skip


def test_reports_without_parts_are_written(tmp_path: Path) -> None:
    out = write_report(tmp_path / "new" / "report.html", title="empty", environment={})
    text = out.read_text(encoding="utf-8")
    Page(text)
    assert 'id="viewer"' not in text
    assert "<table" not in text


def test_environment_is_recorded_unless_given(tmp_path: Path) -> None:
    import torch

    text = write_report(tmp_path / "report.html", title="x").read_text(encoding="utf-8")
    assert f"<td>{torch.__version__}</td>" in text


def test_images_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    volume = np.ones((4, 4, 4), np.float32)
    wrong = CaseResult("sub-9", {"T1": volume}, [Synthesis("T2", volume[:, :, :3], ("T1",))])
    with pytest.raises(InputError, match=r"sub-9: predicted T2 has shape \(4, 4, 3\)"):
        write_report(tmp_path / "report.html", title="x", cases=[wrong])
    missing = CaseResult("sub-9", {"T1": volume}, [Synthesis("T2", volume, ("PD",))])
    with pytest.raises(InputError, match="no image of source PD"):
        write_report(tmp_path / "report.html", title="x", cases=[missing])
    assert list(tmp_path.iterdir()) == []


def test_a_report_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "report.html").mkdir()
    with pytest.raises(RunError, match=r"report\.html"):
        write_report(tmp_path / "report.html", title="x")
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_example_of_the_docs(repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = re.search(r"```python\n(.*?)```", (repo / "docs" / "demo.md").read_text(), re.DOTALL).group(1)
    monkeypatch.chdir(tmp_path)
    t1, t2, prediction = np.random.default_rng(0).uniform(0, 1, (3, 8, 9, 3))
    exec(code, {"t1": t1, "t2": t2, "prediction": prediction})
    shown = payload(tmp_path / "report.html")["cases"][0]
    assert shown["name"] == "sub-01"
    assert len(shown["slices"]) == 3
