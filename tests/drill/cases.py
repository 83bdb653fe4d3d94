"""The cases: runs that are killed, starved and damaged, one after the other, and the table of what came of them."""

from __future__ import annotations

import json
import os
import random
import shutil
import time
from pathlib import Path

from tests.drill.mutating import Mutations
from tests.drill.striking import FAULTS, KILLED, command, die, disturbed, fail, forked, kill_an_actor
from tests.drill.world import ROUNDS, World, make_world, result_of, told

ON_RAY = ("--runner", "ray", "--workers", "1", "--no-html")
IN_A_ROW = 4
"""Strikes in a case: a run is resumed after each."""
AT_ONCE = 50
"""Mutations in a case."""


class Drill:
    def __init__(self, world: World, seed: int) -> None:
        self.world, self.random = world, random.Random(seed)
        self.base = world.root / "whole"
        code, output = forked(command(world.options(self.base)))
        assert code == 0, output
        self.wanted = result_of(self.base)
        assert self.wanted is not None
        self.number = 0
        self.counted: dict[tuple[str, ...], int] = {}

    def fresh(self) -> Path:
        self.number += 1
        return self.world.root / "cases" / f"{self.number:05d}"

    def operations(self, more: tuple[str, ...]) -> int:
        """How often a run with these options writes, in this process."""
        if more not in self.counted:
            self.counted[more] = self.count(more)
        return self.counted[more]

    def count(self, more: tuple[str, ...]) -> int:
        out = self.fresh_of(f"count{len(self.counted)}")

        def work() -> None:
            with disturbed(out, -1, die) as seen:
                try:
                    command(self.world.options(out, *more))()
                finally:
                    print(f"\nOPERATIONS {len(seen)}")

        _, output = forked(work)
        assert result_of(out) == self.wanted, output
        return int(output.rsplit("OPERATIONS", 1)[1].split()[0])

    def page(self) -> tuple[str, ...]:
        """One run in four keeps its page, which takes as long as all the rest."""
        return () if self.random.random() < 0.25 else ("--no-html",)

    def fresh_of(self, name: str) -> Path:
        return self.world.root / "cases" / name

    def place(self, more: tuple[str, ...], number: int = 0) -> tuple[int, str]:
        """Which write is met, and how far in the run that is; the first half where it was resumed `number` times."""
        last = self.operations(more)
        at = self.random.randint(1, last // 2 if number else last)
        tenth = 10 * at // (last + 1) * 10
        return at, f"{'resumed, ' if number else ''}write {tenth}-{tenth + 9} %"

    def resumed(self, out: Path, *more: str) -> tuple[str, str]:
        """What `--resume` makes of a folder: same, OTHER, one line or TRACEBACK; and what it said."""
        code, output = forked(command(self.world.options(out, "--resume", *more)))
        if code == 0:
            return ("same" if result_of(out) == self.wanted else "OTHER"), output
        return told(output), output

    def kill(self) -> None:
        self.in_a_row("kill", die, KILLED)

    def write_error(self) -> None:
        name = self.random.choice(sorted(FAULTS))
        self.in_a_row(name, fail(FAULTS[name]), 2)

    def in_a_row(self, fault: str, strike, ends: int) -> None:
        """A run that is struck, and struck again where it is resumed, `IN_A_ROW` times; then it may go on.

        Every strike has to end it with the exit code `ends`, or not at all; the end has to be the same as ever.
        """
        more, out = self.page(), self.fresh()
        met: list[tuple[str, str]] = []
        for number in range(IN_A_ROW + 1):
            at, stage = self.place(more, number) if number < IN_A_ROW else (-1, "left alone")
            words = self.world.options(out, *more, *(["--resume"] if number else []))

            def work(at: int = at, words: list[str] = words) -> None:
                with disturbed(out, at, strike) as seen:
                    try:
                        command(words)()
                    finally:
                        if 0 < at <= len(seen):
                            print("\nSTRUCK")

            code, output = forked(work)
            if code == 0:
                outcome = "same" if result_of(out) == self.wanted else "OTHER"
                met += [(stage, "went on, ")] if "\nSTRUCK" in output else []
                break
            if number == IN_A_ROW or code != ends or (ends == 2 and told(output) != "one line"):
                outcome = "TRACEBACK" if told(output) == "TRACEBACK" else "NOT RESUMED"
                met.append((stage, ""))
                break
            met.append((stage, "" if ends == KILLED else "one line, "))
        for stage, how in met:
            what = f"{[stage for stage, _ in met]}: {output[-500:]}"
            self.world.note(fault, stage, outcome if outcome.isupper() else f"{how}{outcome}", what)
        shutil.rmtree(out, ignore_errors=True)

    def ray_kill(self) -> None:
        """The driver of a run on Ray is killed, or one of its actors; three of four go on in one process."""
        driver, out = self.random.random() < 0.5, self.fresh()
        at, stage = self.place(ON_RAY)
        then = ON_RAY if self.random.random() < 0.25 else ("--no-html",)
        strike = die if driver else kill_an_actor(self.random)

        def work() -> None:
            with disturbed(out, at, strike):
                command(self.world.options(out, *ON_RAY))()

        code, output = forked(work)
        fault = f"{'driver' if driver else 'actor'} on Ray"
        if driver and code != KILLED:
            self.world.note(fault, stage, "TRACEBACK" if "Traceback" in output else "not met", output[-300:])
            return
        if code == 0:
            outcome = "same" if result_of(out) == self.wanted else "OTHER"
        elif driver or (code == 2 and told(output) == "one line"):
            again, more = self.resumed(out, *then)
            output += more
            first = "" if driver else "one line, "
            outcome = f"{first}{again}" if again == "same" else f"THEN {again.upper()}"
        else:
            outcome = "TRACEBACK"
        self.world.note(fault, stage, outcome, f"op {at}: {output[-900:]}")
        shutil.rmtree(out, ignore_errors=True)

    def damage(self, started: Path, stage: str) -> None:
        out = self.fresh()
        shutil.copytree(started, out)
        path = self.random.choice(sorted(path for path in out.rglob("*") if path.is_file() and path.name != ".lock"))
        data = bytearray(path.read_bytes())
        kind = self.random.choice(["cut", "emptied", "deleted", "bit flipped"])
        if kind == "deleted":
            path.unlink()
        elif kind == "emptied" or not data:
            path.write_bytes(b"")
        elif kind == "cut":
            path.write_bytes(data[: self.random.randrange(len(data))])
        else:
            data[self.random.randrange(len(data))] ^= 1 << self.random.randrange(8)
            path.write_bytes(data)
        outcome, output = self.resumed(out, *self.page())
        name = path.relative_to(out).as_posix()
        self.world.note(kind, f"{stage}: {_family(name)}", outcome, f"{name}: {output[-500:]}")
        shutil.rmtree(out, ignore_errors=True)

    def half(self) -> Path:
        """A run that was killed in its last round."""
        out = self.fresh_of("half")
        if out.exists():
            return out

        def work() -> None:
            from psp_ray.report.progress import Reporter

            def stage(self, round, name):
                if (round, name) == (ROUNDS, "learn"):
                    os._exit(KILLED)

            Reporter.stage = stage
            command(self.world.options(out))()

        code, output = forked(work)
        assert code == KILLED, output
        return out


def _family(name: str) -> str:
    parts = name.split("/")
    return f"{parts[0]}/../{parts[-1]}" if len(parts) > 2 else name


def plan(kills: int, ray_kills: int, writes: int, damage: int, mutations: int, seed: int) -> list[tuple[str, int]]:
    """(kind, number) of every case, well mixed."""
    counts = {
        "kill": -(-kills // IN_A_ROW),
        "ray_kill": ray_kills,
        "write_error": -(-writes // IN_A_ROW),
        "damage": damage,
        "mutations": -(-mutations // AT_ONCE),
    }
    cases = [(kind, number) for kind, count in counts.items() for number in range(count)]
    random.Random(seed).shuffle(cases)
    return cases


def drill(
    root: Path, cases: list[tuple[str, int]], seed: int = 0, seconds: float = 1e9, log: Path | None = None
) -> World:
    """All cases of a `plan` but those in the log, as long as `seconds` last; the world has the table."""
    world = make_world(root)
    done = _logged(world, log, seed)
    run = Drill(world, seed)
    started = time.monotonic()
    for kind, number in cases:
        if time.monotonic() - started > seconds:
            break
        if (kind, number) in done:
            continue
        run.random = random.Random(f"{seed} {kind} {number}")
        before, bad = world.table.copy(), len(world.failures)
        if kind == "damage":
            run.damage(run.base, "finished") if number % 2 else run.damage(run.half(), "interrupted")
        elif kind == "mutations":
            Mutations(run.base, run.half(), run.fresh_of("mutated"), run.random).tell(AT_ONCE, world)
        else:
            getattr(run, kind)()
        if log is not None:
            noted = [[*row, count] for row, count in (world.table - before).items()]
            line = {"seed": seed, "kind": kind, "number": number, "noted": noted, "bad": world.failures[bad:]}
            with open(log, "a", encoding="utf-8") as handle:
                handle.write(json.dumps(line) + "\n")
    return world


def _logged(world: World, log: Path | None, seed: int) -> set[tuple[str, int]]:
    """What a drill that was stopped has done, taken up into the table."""
    done = set()
    if log is not None and log.exists():
        for line in map(json.loads, log.read_text(encoding="utf-8").splitlines()):
            if line["seed"] == seed:
                done.add((line["kind"], line["number"]))
                for fault, stage, outcome, count in line["noted"]:
                    world.table[fault, stage, outcome] += count
                world.failures += line["bad"]
    return done
