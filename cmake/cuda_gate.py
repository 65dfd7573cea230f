"""Checks the machine code of compiled CUDA kernels against rules; needs no GPU.

    python cmake/cuda_gate.py RULES.toml OBJECT ...

Every kernel of every architecture in the objects must be known to a rule and keep all rules that match it.
A rule is a table ``[[kernel]]``:

    name           regular expression, searched in the demangled signature
    arch           regular expression for the whole architecture name, e.g. "sm_(80|90)"; default: all
    require        regular expressions of opcodes that must occur
    forbid         regular expressions of opcodes that must not occur, besides those of [all]
    max_registers  registers per thread, at most
    max_shared     bytes of static shared memory, at most

The table ``[all]`` holds ``forbid`` and ``max_stack`` (bytes) for every kernel. A rule that no kernel matches
is an error, and so is a kernel that lacks an architecture that another one has.

cuobjdump and nvdisasm are found beside this Python's nvidia packages (``pip install nvidia-cuda-cuobjdump
nvidia-cuda-nvdisasm``), on PATH or in the CUDA toolkit.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

OPCODE = re.compile(r"\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)")
RULE_KEYS = {"name", "arch", "require", "forbid", "max_registers", "max_shared"}


class GateError(Exception):
    """What the user has to hear, in one line."""


@dataclass
class Kernel:
    """The machine code of one kernel for one architecture."""

    name: str  # demangled
    arch: str  # sm_80
    registers: int = 0
    stack: int = 0
    shared: int = 0
    opcodes: Counter[str] = field(default_factory=Counter)

    def count(self, pattern: str) -> int:
        return sum(n for opcode, n in self.opcodes.items() if re.match(pattern, opcode))

    @property
    def label(self) -> str:
        """The name without what every kernel's has."""
        short = self.name.replace("(anonymous namespace)::", "").replace("ivan_fast::cuda::", "")
        short = short.removeprefix("void ")
        end = short.find(">(")  # of the template's arguments, which may hold brackets themselves
        return short[: end + 1] if end >= 0 else short.partition("(")[0]


def find_tools() -> Path:
    """The folder of cuobjdump and nvdisasm."""
    folders = [Path(found).parent for found in [shutil.which("cuobjdump")] if found]
    for package, inside in (("nvidia.cu13", "bin"), ("nvidia.cuda_cuobjdump", "bin")):
        try:
            spec = importlib.util.find_spec(package)
        except ModuleNotFoundError:
            continue
        folders += [Path(place) / inside for place in (spec.submodule_search_locations or [] if spec else [])]
    folders += [Path(os.environ.get("CUDA_HOME", "/usr/local/cuda")) / "bin"]
    for folder in folders:
        if all(os.access(folder / tool, os.X_OK) for tool in ("cuobjdump", "nvdisasm")):
            return folder
    raise GateError(
        "cuobjdump and nvdisasm not found: pip install nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm"
    )


def cuobjdump(tools: Path, option: str, obj: Path) -> str:
    environment = {**os.environ, "PATH": f"{tools}{os.pathsep}{os.environ.get('PATH', '')}"}
    command = [str(tools / "cuobjdump"), option, str(obj)]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if run.returncode != 0:
        raise GateError(f"{obj}: {' '.join((run.stderr or run.stdout).split()) or 'cuobjdump failed'}")
    return run.stdout


def demangled(names: list[str]) -> dict[str, str]:
    tool = shutil.which("cu++filt") or shutil.which("c++filt")
    if tool is None or not names:
        raise GateError("no kernels found" if not names else "c++filt not found: install binutils")
    run = subprocess.run([tool], input="\n".join(names), capture_output=True, text=True, check=True)
    return dict(zip(names, run.stdout.splitlines(), strict=True))


def read_kernels(objects: list[Path]) -> list[Kernel]:
    """All kernels in the objects, one entry per architecture."""
    tools = find_tools()
    jobs = [(option, obj) for obj in objects for option in ("--dump-resource-usage", "--dump-sass")]
    with ThreadPoolExecutor(2) as pool:
        texts = list(pool.map(lambda job: cuobjdump(tools, *job), jobs))
    found: dict[tuple[str, str], Kernel] = {}
    for (option, _), text in zip(jobs, texts, strict=True):
        arch = function = ""
        for line in text.splitlines():
            if match := re.match(r"\s*arch = (sm_\w+)", line):
                arch = match[1]
            elif match := re.match(r"\s*Function\s*:?\s*([^:\s]+)", line):
                function = match[1]
            elif option == "--dump-sass" and (match := OPCODE.match(line)):
                found.setdefault((function, arch), Kernel(function, arch)).opcodes[match[1]] += 1
            elif "REG:" in line:
                use = {k: int(v) for k, v in re.findall(r"(\w+)(?:\[\d+\])?:(\d+)", line)}
                kernel = found.setdefault((function, arch), Kernel(function, arch))
                kernel.registers, kernel.stack, kernel.shared = use["REG"], use["STACK"], use["SHARED"]
    names = demangled(sorted({function for function, _ in found}))
    for kernel in found.values():
        kernel.name = names[kernel.name]
    return sorted(found.values(), key=lambda k: (k.name, k.arch))


def read_rules(path: Path) -> dict[str, Any]:
    """The rules file, checked for unknown keys and bad patterns."""
    try:
        rules = tomllib.loads(path.read_text())
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise GateError(f"{path}: {error}") from error
    for rule in rules.get("kernel", []):
        if unknown := set(rule) - RULE_KEYS:
            raise GateError(f"{path}: unknown key {min(unknown)!r}, expected {', '.join(sorted(RULE_KEYS))}")
        if "name" not in rule:
            raise GateError(f"{path}: a [[kernel]] without name")
        for pattern in (
            rule["name"],
            rule.get("arch", ""),
            *rule.get("require", []),
            *rule.get("forbid", []),
        ):
            try:
                re.compile(pattern)
            except re.error as error:
                raise GateError(f"{path}: {pattern!r} is no regular expression: {error}") from error
    return rules


def matches(rule: dict[str, Any], kernel: Kernel) -> bool:
    return bool(re.search(rule["name"], kernel.name)) and bool(
        re.fullmatch(rule.get("arch", ".*"), kernel.arch)
    )


def check(kernels: list[Kernel], rules: dict[str, Any]) -> list[str]:
    """What is wrong, one line each."""
    wrong: list[str] = []
    everywhere = rules.get("all", {})
    architectures = {kernel.arch for kernel in kernels}
    by_name: dict[str, set[str]] = defaultdict(set)
    for kernel in kernels:
        by_name[kernel.name].add(kernel.arch)
        own = [rule for rule in rules.get("kernel", []) if matches(rule, kernel)]
        label = f"{kernel.arch} {kernel.label}"
        if not own:
            wrong.append(f"{label}: no rule knows this kernel; add one")
        if kernel.stack > everywhere.get("max_stack", 0):
            wrong.append(f"{label}: {kernel.stack} bytes of stack, at most {everywhere.get('max_stack', 0)}")
        for rule in own:
            if kernel.registers > rule.get("max_registers", 255):
                wrong.append(f"{label}: {kernel.registers} registers, at most {rule['max_registers']}")
            if kernel.shared > rule.get("max_shared", 1 << 30):
                wrong.append(f"{label}: {kernel.shared} bytes of shared memory, at most {rule['max_shared']}")
            wrong += [f"{label}: no {p}" for p in rule.get("require", []) if not kernel.count(p)]
        forbidden = {p for rule in (everywhere, *own) for p in rule.get("forbid", [])}
        wrong += [f"{label}: {kernel.count(p)} x {p}" for p in sorted(forbidden) if kernel.count(p)]
    for name, has in by_name.items():
        if missing := architectures - has:
            wrong.append(f"{Kernel(name, '').label}: not compiled for {', '.join(sorted(missing))}")
    for rule in rules.get("kernel", []):
        if not any(matches(rule, kernel) for kernel in kernels):
            wrong.append(f"rule {rule['name']!r} {rule.get('arch', '')}: no kernel matches")
    return wrong


def summary(kernels: list[Kernel]) -> list[str]:
    """One line per kernel: the range over its architectures."""
    groups: dict[str, list[Kernel]] = defaultdict(list)
    for kernel in kernels:
        groups[kernel.label].append(kernel)
    lines = []
    for label, group in sorted(groups.items()):
        registers = [k.registers for k in group]
        tensor = sum(k.count("HMMA|HGMMA") > 0 for k in group)
        wide = sum(k.count(r"LDG\S*\.128") > 0 for k in group)
        lines.append(
            f"{label:66.66} {min(registers):3}-{max(registers):3} registers, "
            f"{max(k.shared for k in group):5} B shared, tensor cores {tensor}/{len(group)}, "
            f"16-byte loads {wide}/{len(group)}"
        )
    return lines


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Checks compiled CUDA kernels against rules.")
    parser.add_argument("rules", type=Path)
    parser.add_argument("objects", type=Path, nargs="+")
    parser.add_argument("--verbose", action="store_true", help="a line per kernel")
    args = parser.parse_args(arguments)
    try:
        rules, kernels = read_rules(args.rules), read_kernels(args.objects)
    except GateError as error:
        print(f"cuda-gate: {error}", file=sys.stderr)
        return 2
    wrong = check(kernels, rules)
    if args.verbose:
        print("\n".join(summary(kernels)))
    for line in wrong:
        print(f"cuda-gate: {line}", file=sys.stderr)
    names, archs = {k.name for k in kernels}, sorted({k.arch for k in kernels})
    print(f"cuda-gate: {len(names)} kernels for {' '.join(archs)}: {len(wrong)} faults")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
