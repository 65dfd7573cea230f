"""The one table, and the JSON file."""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path
from typing import Any

from networks import JOBS, PRECISIONS

RIVALS = ("eager", "channels_last", "graph", "compile")
Row = dict[str, Any]


def file_name(record: Row) -> str:
    """gpu_<device>_<date>_<time>.json, of when the run began: another one on the same day is another file."""
    device = re.sub(r"[^a-z0-9]+", "_", record["environment"].get("device", "unknown").lower()).strip("_")
    return f"gpu_{device}_{time.strftime('%Y-%m-%d_%H%M%S', time.localtime(record['began']))}.json"


def write(record: Row, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / file_name(record)
    part = path.with_suffix(f".{os.getpid()}.part")
    part.write_text(json.dumps(record, indent=1) + "\n")
    part.replace(path)
    return path


def cell(row: Row | None, best: float | None = None) -> str:
    """Milliseconds, and how many times faster than this ours is."""
    if row is None:
        return "-"
    if "seconds" not in row:
        return "no fit" if row.get("error") == "does not fit" else "failed"
    text = f"{1e3 * row['seconds']:.2f}"
    return text if best is None else f"{text} ({row['seconds'] / best:.1f}x)"


def times_table(record: Row) -> list[str]:
    peaks = (record.get("rates") or {}).get("matmul_flop_per_s", {})
    rows = {(r["size"], r["batch"], r["precision"], r["job"], r["name"]): r for r in record.get("times", [])}
    head = [
        "size",
        "batch",
        "precision",
        "job",
        "ours ms",
        "other ms",
        "of peak",
        "B/px",
        "ours graph",
        *RIVALS,
    ]
    lines = [head]
    for size, batch in sorted({k[:2] for k in rows}, key=lambda k: (k[1], k[0])):
        for precision in PRECISIONS:
            for job in JOBS:
                key = (size, batch, precision, job)
                mine = rows.get((*key, "ours"))
                if not any(k[:4] == key for k in rows):
                    continue
                good = mine is not None and "seconds" in mine
                peak, added = peaks.get(precision), (mine or {}).get("added_bytes")
                lines.append(
                    [
                        f"{size}", f"{batch}", precision, job, cell(mine),
                        cell(rows.get((*key, "ours_other"))),
                        f"{mine['flop_per_s'] / peak:.0%}" if good and peak else "-",
                        f"{added / mine['pixels']:.0f}" if good and added is not None else "-",
                        cell(rows.get((*key, "ours_graph"))),
                        *(cell(rows.get((*key, n)), mine["seconds"] if good else None) for n in RIVALS),
                    ]
                )  # fmt: skip
    return aligned(lines)


def aligned(lines: list[list[str]]) -> list[str]:
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return ["  ".join(word.rjust(width) for word, width in zip(line, widths, strict=True)) for line in lines]


def rates_lines(record: Row) -> list[str]:
    rates = record.get("rates")
    if rates is None:
        return ["peak rates: not measured"]
    lines = [
        "matrix product "
        + ", ".join(f"{p} {r / 1e12:.1f} TFLOP/s" for p, r in rates["matmul_flop_per_s"].items())
    ]
    lines[0] += f"; copy {rates['copy_bytes_per_s'] / 1e9:.0f} GB/s"
    for precision, found in rates["convolution_128_to_32_flop_per_s"].items():
        parts = ", ".join(f"{layout} {rate / 1e12:.1f} TFLOP/s" for layout, rate in found.items())
        lines.append(f"PyTorch's 3x3 convolution 128 -> 32, {precision}: {parts}")
    for row in rates["ops"]:
        words = (
            row["op"],
            row.get("precision", "float32"),
            row.get("kernel"),
            f"{row['size']}x{row['size']}",
        )
        name = " ".join(w for w in words if w is not None)
        if "of_copy" in row:
            value = f"{row['bytes_per_s'] / 1e9:.0f} GB/s, {row['of_copy']:.0%} of a copy"
        else:
            value = f"{row['flop_per_s'] / 1e12:.1f} TFLOP/s, {row['of_matmul']:.0%} of a matrix product"
        lines.append(f"{name}: {1e6 * row['seconds']:.0f} us, {value}")
    return lines


def lines(record: Row, faults: list[str]) -> list[str]:
    """Everything that is printed at the end."""
    environment = record["environment"]
    parts = [
        f"{k} {environment[k]}"
        for k in ("torch", "cuda", "cudnn", "python")
        if environment.get(k) is not None
    ]
    text = ["", f"{environment.get('device')}: {', '.join(parts)}", ""]
    text += [*times_table(record), "", *rates_lines(record), ""]
    default = (environment.get("ivan_fast") or {}).get("dense_block_cuda")
    text.append(
        f"ours: {default} dense blocks, other: the other kernel; ms: median, L2 cache overwritten before "
        "each call; (x): times slower than ours; of peak: useful "
        "work over the matrix product's rate at that precision; B/px: memory that the job added"
    )
    for row in record.get("accuracy", []):
        text.append(
            f"accuracy {row['precision']} {row['what']}: {row['ours']:.1e}, PyTorch {row['eager']:.1e}, "
            f"exact sums of rounded operands {row['rounded']:.1e}"
        )
    official = record.get("official")
    text.append(
        "official vectors: not found, set IVAN_SHARED"
        if official is None
        else "official vectors: " + ", ".join(f"{k} {v:.1e}" for k, v in official["errors"].items())
    )
    if (tests := record.get("tests")) is not None:
        counts = ", ".join(f"{tests[k]} {k}" for k in ("passed", "failed", "skipped") if k in tests)
        text.append(f"tests: {counts or tests.get('error')}")
    for tool, result in record.get("sanitizer", {}).items():
        verdict = {True: "clean", None: result.get("error")}.get(result["good"], "faults")
        text.append(f"compute-sanitizer {tool}: {verdict}")
    for name, found in record.get("largest_slice", {}).items():
        text.append(
            f"largest slice that trains, {name}: {found['largest_side']} square "
            f"({found['how']}, {found['bytes_per_pixel']:.0f} B/px)"
        )
    if skipped := record.get("skipped"):
        text.append(
            f"skipped for want of time ({len(skipped)}): {'; '.join(skipped[:12])}"
            + " ..." * (len(skipped) > 12)
        )
    text += [f"FAULT {line}" for line in faults]
    return text
