"""One kill of every job of the soak (`make soak` does fifty of each)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_kills_at_random_moments(repo: Path) -> None:
    command = [sys.executable, str(repo / "tests" / "soak" / "soak.py"), "--kills", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr + done.stdout
    assert done.stdout.count("survived 1 kills") == 5, done.stdout
