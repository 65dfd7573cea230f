"""Writes docs/api.md from the docstrings of the public names: `python docs/make_api.py` (`make docs`)."""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from pathlib import Path
from typing import Any

TARGET = Path(__file__).resolve().parent / "api.md"
# Module -> what it is for. Its `__all__` says what is public.
MODULES = {
    "ivan": "The application",
    "ivan.prepare": "Raw folders to training data",
    "ivan.data": "Images in, slices out, images out",
    "ivan.metrics": "Metrics of synthesis and fusion",
    "ivan.report": "The report",
    "ivan.export": "One file that PyTorch runs alone",
    "ivan_fast": "Ops and invertible modules, for any network",
}
HEADER = """# API reference

Written by `make docs` from the docstrings; a test fails where they differ. Shapes are in brackets, units and
value ranges beside them.
"""


def public(module: Any) -> list[str]:
    """Public names of a module: `__all__`, else the functions and classes that it defines."""
    names = getattr(module, "__all__", None)
    if names is None:
        own = (n for n, v in vars(module).items() if getattr(v, "__module__", None) == module.__name__)
        names = [name for name in own if not name.startswith("_")]
    return sorted(name for name in names if not name.startswith("__"))


def signature(function: Any, name: str) -> str:
    """`name(parameters) -> result` as one line, annotations without quotes."""
    try:
        text = str(inspect.signature(function))
    except (TypeError, ValueError):
        return name
    text = re.sub(r"'([A-Za-z_][^']*)'(?=[,)=\s]|$)", r"\1", text)  # annotations kept as texts
    text = re.sub(r"(?<=: )'([^']+)'", r"\1", text)
    text = re.sub(r"(?<=-> )'([^']+)'", r"\1", text)
    return name + re.sub(r"\bself, |\(self\)", lambda m: "()" if m[0] == "(self)" else "", text)


def described(value: Any) -> str:
    """A docstring as a fenced block: its layout is that of plain text."""
    text = inspect.getdoc(value) or ""
    return f"\n```text\n{text}\n```\n" if text else "\n"


def entry(path: str, value: Any) -> list[str]:
    """The section of one public name; classes with the methods they document themselves."""
    if inspect.ismodule(value):
        return [f"### {path}\n\nA module, see below.\n"]
    if not callable(value):
        return [f"### {path}\n\n`{value!r}`\n"]
    lines = [f"### {signature(value, path)}\n{described(value)}"]
    if inspect.isclass(value):
        for name, member in sorted(vars(value).items()):
            function = member.__func__ if isinstance(member, (classmethod, staticmethod)) else member
            if name.startswith("_") or not inspect.isfunction(function) or not function.__doc__:
                continue
            lines.append(f"#### {path.rpartition('.')[2]}.{signature(function, name)}\n{described(function)}")
    return lines


def build() -> str:
    """The whole page."""
    parts = [HEADER]
    for module_name, title in MODULES.items():
        module = importlib.import_module(module_name)
        parts.append(f"## `{module_name}`: {title}\n")
        for name in public(module):
            parts += entry(f"{module_name}.{name}", getattr(module, name))
    return re.sub(r"\n{3,}", "\n\n", "\n".join(parts)).rstrip() + "\n"


if __name__ == "__main__":
    page = build()
    if "--check" in sys.argv:
        sys.exit(0 if TARGET.read_text(encoding="utf-8") == page else "docs/api.md is out of date: make docs")
    TARGET.write_text(page, encoding="utf-8")
