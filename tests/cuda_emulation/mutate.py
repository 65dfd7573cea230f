"""A sweep of small systematic faults over csrc/cuda: which of them does no test notice?   make mutants

    python tests/cuda_emulation/mutate.py [--files 'dense_block*'] [--sample 150] [--seed 0] [--race]

Every place where a comparison, an index, a condition or a statement could be wrong by a little becomes a
choice in one library (planting.py). For each, the tests of this folder run until one fails, in a process of
its own. Printed are the faults that no test notices: a hole in the tests, or a change that makes no
difference. Exits with 0; what survives is for a person to judge.
"""

from __future__ import annotations

import argparse
import fnmatch
import random
import re
import sys
import time
from collections.abc import Iterator

import emulation
import planting
import test_dense_block_kernels
import test_pointwise
import test_state_kernels
from planting import Change, Insertion

# Lines on which the compiler wants constants, or that declare rather than do.
SKIPPED = re.compile(
    r"constexpr|static_assert|template|__launch_bounds__|__shared__|^\s*#|\busing\b|operator|throw"
)
# What is put behind a match: the fault is wrong by one where it is chosen.
BEHIND = {
    r" < ": ("-> <=", "emulation_planted({n}) + "),
    r" <= ": ("-> <", "-emulation_planted({n}) + "),
    r" > ": ("-> >=", "-emulation_planted({n}) + "),
    r" >= ": ("-> >", "emulation_planted({n}) + "),
    r" \+ 1\b(?![.\w])": ("-> + 0", " - emulation_planted({n})"),
    r" - 1\b(?![.\w])": ("-> - 0", " + emulation_planted({n})"),
    r" % (?=[\w(])": ("-> % (.. + 1)", "planting::Next{{{n}}} ->* "),
    r" / (?=[\w(])": ("-> / (.. + 1)", "planting::Next{{{n}}} ->* "),
    r"(?<![\w.])[2-9]\d? \* (?=[\w(])": ("-> 1 more of it", "(1 + emulation_planted({n})) * "),
}
ASSIGNMENT = re.compile(r"^\s+([\w.\[\]>-]+ [+*]?= [^;{]+;)$")
CALL = re.compile(r"^\s+([\w.:]+(?:<[\w, ]+>)?\([^;{]*\);)(?:  //.*)?$")


def right_end(text: str, begin: int, stops: tuple[str, ...]) -> int | None:
    """Where the operand that begins at `begin` ends: before one of `stops` or what closes around it."""
    depth = 0
    for at in range(begin, min(begin + 400, len(text))):
        if text[at] in "([{":
            depth += 1
        elif text[at] in ")]}":
            depth -= 1
            if depth < 0:
                return at
        elif depth == 0 and (text[at] in ";," or text.startswith(stops, at)):
            return at
    return None


def changes_of(file: str) -> Iterator[Change]:
    text = planting.text_of(file)
    position = 0
    for number, whole in enumerate(text.splitlines(keepends=True), 1):
        begin, position = position, position + len(whole)
        line = whole.split("//")[0]
        if SKIPPED.search(line):
            continue

        def change(what: str, insertions: list[Insertion], number: int = number, line: str = line) -> Change:
            return Change(file, number, f"{what}    in {line.strip()}", tuple(insertions))

        for pattern, (what, inserted) in BEHIND.items():
            for match in re.finditer(pattern, line):
                at = begin + match.end()
                yield change(f"{match[0].strip()} {what}", [(at, at, inserted)])
        for operator, kept in ((" && ", "emulation_planted({n}) ||"), (" || ", "!emulation_planted({n}) &&")):
            for match in re.finditer(re.escape(operator), line):
                at = begin + match.end()
                end = right_end(text, at, (" && ", " || ", " ? ", " : "))
                if end is not None:
                    yield change(
                        f"right of {operator.strip()} dropped", [(at, end, f"({kept} ("), (end, at, "))")]
                    )
        for match in re.finditer(" == ", line):
            end = right_end(text, begin + match.end(), (" && ", " || ", " ? ", " : ", " == "))
            if end is not None:
                yield change("== -> !=", [(end, begin + match.start(), " != emulation_planted({n})")])
        statement = ASSIGNMENT.match(line) or CALL.match(line)
        follows = text[position:].lstrip()
        if statement and not follows.startswith("else") and not statement[1].startswith(("return", "check")):
            at = begin + statement.start(1)
            yield change("left out", [(at, at + 1, "if (!emulation_planted({n})) ")])


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--files", default="*", help="which files of csrc/cuda, as a shell pattern")
    parser.add_argument("--sample", type=int, default=150, help="how many faults; 0: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--race", action="store_true", help="under the race check too, for those that survive"
    )
    parser.add_argument("--seconds", type=int, default=120, help="of processor time for one fault, at most")
    args = parser.parse_args()
    files = sorted(p.name for p in emulation.KERNELS.iterdir() if fnmatch.fnmatch(p.name, args.files))
    changes = [change for file in files if file != "tensor_core.cuh" for change in changes_of(file)]
    all_places = len(changes)
    if 0 < args.sample < all_places:
        changes = random.Random(args.seed).sample(changes, args.sample)
    begin = time.monotonic()
    plain, changes = planting.load_what_compiles("plain", changes)
    tests = []
    for probe in [
        p
        for m in (test_dense_block_kernels, test_pointwise, test_state_kernels)
        for p in planting.probes_of(m)
    ]:
        started = time.monotonic()
        failure = planting.attempt(plain, -1, [probe])
        assert failure is None, f"fails without a fault: {failure}"
        tests.append((time.monotonic() - started, probe))
    tests.sort(key=lambda pair: pair[0])
    ordered = [probe for _, probe in tests]
    print(
        f"{len(changes)} of {all_places} places, seed {args.seed}; {time.monotonic() - begin:.0f} s",
        flush=True,
    )
    race = planting.load("race", changes) if args.race else None
    survivors = []
    for number, change in enumerate(changes):
        failure = planting.attempt(plain, number, ordered, args.seconds)
        if failure is None and race is not None:
            failure = planting.attempt(race, number, ordered, 5 * args.seconds)
        if failure is None:
            survivors.append(change)
        print(f"{change}\n    {failure or 'SURVIVED'}", flush=True)
    noticed = len(changes) - len(survivors)
    print(f"\n{noticed} of {len(changes)} noticed, {time.monotonic() - begin:.0f} s; survivors:")
    for change in survivors:
        print(f"  {change}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
