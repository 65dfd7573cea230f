"""Pages in a headless Chromium: what they show, what a script finds in them, and what the console says."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
NEEDS_CHROMIUM = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium on this machine: the report's page was NOT tried"
)
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--enable-logging=stderr",
    "--force-prefers-reduced-motion",  # no smooth scrolling, which virtual time may not wait for
    "--virtual-time-budget=5000",
]
DONE = "TEST-RESULT"


def browse(url: str, profile: Path, *flags: str) -> tuple[str, list[str]]:
    """(DOM or other output, console messages and page errors)."""
    command = [str(CHROMIUM), *FLAGS, f"--user-data-dir={profile}", *flags, url]
    done = subprocess.run(command, capture_output=True, timeout=120, text=True, check=True)
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def drive(page: Path, folder: Path, steps: str, fragment: str = "", *flags: str) -> dict:
    """Run JavaScript `steps` in a copy of the page once the viewer is ready and return its `result`."""
    script = f"""<script>
    (async () => {{
      const $ = (id) => document.getElementById(id), result = {{}};
      const tick = () => new Promise((done) => setTimeout(done, 60));
      for (let i = 0; i < 50 && document.documentElement.dataset.viewer !== "ready"; i++) await tick();
      const canvases = () => [...document.querySelectorAll("#v-panels canvas")];
      const rgba = (canvas) => {{
        const copy = document.createElement("canvas");
        copy.width = canvas.width; copy.height = canvas.height;
        const context = copy.getContext("2d", {{ willReadFrequently: true }});
        context.drawImage(canvas, 0, 0);
        return [...context.getImageData(0, 0, copy.width, copy.height).data];
      }};
      const sum = (canvas) => rgba(canvas).reduce((a, v, i) => (i % 4 < 3 ? a + v : a), 0);
      const sums = () => canvases().map(sum);
      const slide = async (id, value) => {{
        $(id).value = value; $(id).dispatchEvent(new Event("input")); await tick();
      }};
      const key = async (name) => {{
        const press = new KeyboardEvent("keydown", {{ key: name, bubbles: true }});
        document.querySelector(".viewer").dispatchEvent(press);
        await tick();
      }};
      {steps}
      document.title = {json.dumps(DONE)} + JSON.stringify(result);
    }})();</script></body>"""
    copy = folder / "driven.html"
    copy.write_text(page.read_text(encoding="utf-8").replace("</body>", script), encoding="utf-8")
    dom, console = browse(copy.as_uri() + fragment, folder / "profile", *flags, "--dump-dom")
    assert console == []
    title = re.search(r"<title>(.*?)</title>", dom, re.DOTALL).group(1)
    assert title.startswith(DONE), title
    return json.loads(unescape(title)[len(DONE) :])
