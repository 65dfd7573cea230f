"""What `benchmarks/network.py` measures."""

from __future__ import annotations

from dataclasses import replace

from ivan.benchmark.case import JOBS, Case
from ivan.benchmark.implementations import IMPLEMENTATIONS
from ivan.benchmark.plan import Group, Kernels, Memory, Times

ALL = tuple(IMPLEMENTATIONS)
OURS = ("strict", "fast")
CORE = ("eager", *OURS)
POLICIES = ("fast-boundary", "fast-store")


def figures(case: Case, threads: int, rounds: int) -> list[Group]:
    """Everything docs/performance.md shows, in about 20 minutes on two cores: cheap things first.

    `case` gives the network and the device.
    """
    groups: list[Group] = []
    for side in (128, 256):
        groups += [Kernels(case.at(side), 3 * rounds, threads), Times(case.at(side), ALL, rounds, threads)]
    if threads > 1:
        groups.append(Times(case.at(256), ("eager", "fast"), max(rounds - 1, 1), 1))
    groups.append(Times(case.at(512), CORE, max(rounds - 1, 1), threads))
    for side, names in (
        (128, tuple(name for name in ALL if name != "compile")),
        (256, ALL),
        (512, (*CORE, *POLICIES)),
        (1024, ("eager", "fast")),
    ):
        groups += [Memory(case.at(side), name, threads) for name in names]
    return groups + depth(case.at(128), threads, (8, 16, 40, 80))


def depth(case: Case, threads: int, blocks: tuple[int, ...]) -> list[Group]:
    """Memory and time of a step against the number of blocks; the usual number is measured already."""
    groups: list[Group] = []
    for count in blocks:
        deep = replace(case, blocks=count)
        groups += [
            Memory(deep, name, threads)
            for name in ("eager", "fast", "fast-boundary")
            if count != case.blocks and (name != "eager" or count <= 2 * case.blocks)
        ]
        if count != case.blocks:
            names = ("eager", "fast") if count <= 2 * case.blocks else ("fast",)
            groups.append(Times(deep, names, 1, threads, ("step",)))
    return groups


def quick(case: Case, threads: int, rounds: int) -> list[Group]:
    """The same kinds of measurement on tiny images: a check of the tools, not a result."""
    small = replace(case, blocks=2)
    groups: list[Group] = [
        Kernels(small.at(32), rounds, threads),
        Times(small.at(32), tuple(name for name in ALL if name != "compile"), rounds, threads),
        Times(small.at(48), CORE, rounds, threads),
    ]
    groups += [Memory(small.at(side), name, threads) for side in (32, 64) for name in ("eager", "fast")]
    deep = replace(small.at(32), blocks=4)
    groups += [Memory(deep, name, threads) for name in ("eager", "fast")]
    return [*groups, Times(deep, ("eager", "fast"), 1, threads, ("step",))]


def custom(
    cases: list[Case],
    names: tuple[str, ...],
    jobs: tuple[str, ...],
    rounds: int,
    threads: list[int],
    memory: bool,
) -> list[Group]:
    """Every case with every number of threads."""
    groups: list[Group] = []
    for count in threads:
        for case in cases:
            groups.append(Times(case, names, rounds, count, tuple(job for job in JOBS if job in jobs)))
            if memory:
                groups += [Memory(case, name, count) for name in names]
    return groups
