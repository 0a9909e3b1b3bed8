"""What a training step keeps, computes again and does in parts, so that it fits a number of bytes.

From the plan that keeps what convolutions give, the segment that needs most is looked at again and again: each value that
lives there may be made later or once more, the segment may be done in more parts. Of what helps, that is chosen which saves
most bytes a second of work (after Chen 2016, and Jain 2020, "Checkmate", who solve it exactly).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from math import ceil, floor, log, log2
from typing import Any, NamedTuple

from nbconv.passes.rematerialise import LEAST, cheap
from nbconv.passes.segments import AGAIN, EVER, Choice, Segments
from nbconv.train.memory.estimate import Estimate, Memory

TRIED = 16
"""Changes of which the effect is worked out at a time."""
STALL = 300
"""Most estimates that are made without getting lower."""
STAGE = 0.9
"""Of what it takes at a stage, how much it may at the next."""
RUNG = 0.995
"""Of what a rung may take, how much the next may."""
NEAR = 1.03
"""How many times the least that can be found a rung takes for which there is more than that one choice."""
SHARE = 1 / 32
"""Of what it may take, how much packed weights and sums may."""
LEAST_AT_ONCE = 1 << 19
"""Bytes that these may always take."""
LITTLE = 1e6
"""Floating-point operations that count for nothing."""


class Found(NamedTuple):
    """A choice, and what it takes by estimate."""

    choice: Choice
    memory: Memory
    scratch_limit: float
    """bytes of packed weights, or of sums, for which that is estimated"""

    @property
    def nbytes(self) -> int:
        return self.memory.most()


class Search:
    """Finds what to choose for segments. ``estimates`` gives the estimate for a limit of scratch memory; ``active`` are the
    values of the forward part that depend on what trains.

    What may be chosen does not depend on the bytes that are asked for, so that what is enough once always is: there is a
    choice a *rung*, and rungs are fixed numbers of bytes, each 0.5 % below the last. *Stages* go down further at a time; the
    first that is low enough for a rung says whether that can be had.
    """

    def __init__(self, segments: Segments, estimates: Callable[[float], Estimate], active: Iterable[str]) -> None:
        self.segments, self.active = segments, set(active)
        self.estimates = lru_cache(maxsize=None)(estimates)
        usual = self.usual()
        self.top = self.estimates(LEAST_AT_ONCE).memory(usual).most()
        """bytes of the choice that saves least; of rung 0"""
        self.stages = [self.found(usual, self.scratch_limit(self.top))]
        whole = segments.whole.nodes[: segments.forward]
        held: dict[str, tuple[int, int]] = {
            n: AGAIN for node in whole for n in node.outputs if n in self.active and segments.able(n)
        }
        self.bound = self.found(Choice(held, {}), LEAST_AT_ONCE).memory.forward()
        """bytes that the forward part takes whatever is chosen"""
        self._plans: dict[int, Found | None] = {}
        self.ended = False
        """whether there are no more stages"""

    def usual(self) -> Choice:
        """What costs little is computed again in each segment."""
        held = {}
        for node in self.segments.whole.nodes[: self.segments.forward]:
            y = node.outputs[0]
            if y in self.active and self.segments.able(y) and cheap(node, self.segments.specs[y]):
                held[y] = AGAIN
        return Choice(held, {})

    def found(self, choice: Choice, scratch_limit: float) -> Found:
        return Found(choice, self.estimates(scratch_limit).memory(choice), scratch_limit)

    @staticmethod
    def scratch_limit(nbytes: float) -> float:
        """Bytes of scratch memory for a step that may take so many, in few steps."""
        return max(2.0 ** floor(log2(max(SHARE * nbytes, 1))), LEAST_AT_ONCE)

    def rung(self, nbytes: float) -> int:
        """The first rung that is no higher than so many bytes."""
        return max(0, ceil(log(max(nbytes, 1) / self.top) / log(RUNG) - 1e-9))

    def height(self, rung: int) -> float:
        """Bytes that the choice of a rung may take by estimate."""
        return self.top * RUNG**rung

    def stage(self, number: int) -> Found:
        """The choice of a stage, or of the last one that there is: the least that can be found."""
        while len(self.stages) <= number and not self.ended:
            target = self.top * STAGE ** len(self.stages)
            found = self.descend(self.stages[-1].choice, target, self.scratch_limit(target))
            if found.nbytes > target and found.scratch_limit > LEAST_AT_ONCE:
                found = min(found, self.descend(found.choice, target, LEAST_AT_ONCE), key=lambda f: f.nbytes)
            if found.nbytes > target:
                found = min(self.lighter(found.nbytes, found), self.stages[-1], key=lambda f: f.nbytes)
                self.ended = True
            self.stages.append(found)
        return self.stages[min(number, len(self.stages) - 1)]

    def lowest(self) -> Found:
        """The choice that takes least."""
        while not self.ended:
            self.stage(len(self.stages))
        return self.stages[-1]

    def plan(self, rung: int) -> Found | None:
        """The fastest choice that was found for a rung; None below the last. Those near the last have the last one's."""
        if rung not in self._plans:
            self._plans[rung] = self._planned(rung)
        return self._plans[rung]

    def _planned(self, rung: int) -> Found | None:
        nbytes, number = self.height(rung), 0
        while self.stage(number).nbytes > nbytes:
            if self.ended and number >= len(self.stages) - 1:
                return None
            number += 1
        fits = self.stages[number]
        if fits.nbytes > self.top * STAGE**number and nbytes < NEAR * fits.nbytes:
            return fits
        limit = self.scratch_limit(nbytes)
        starts = dict.fromkeys((max(number - 1, 0), 0))
        found = [fits, *(self.descend(self.stages[i].choice, nbytes, limit) for i in starts)]
        found = [self.lighter(nbytes, f) for f in found if f.nbytes <= nbytes]
        return min(found, key=lambda f: f.memory.cost)

    def descend(self, choice: Choice, nbytes: float, scratch_limit: float) -> Found:
        """From a choice to one that takes no more than so many bytes by estimate, or the least that was found."""
        estimate = self.estimates(scratch_limit)
        now = estimate.memory(choice)
        least, seen, limit = (now.most(), choice, now), {_key(choice)}, estimate.count + STALL
        while now.most() > max(nbytes, self.bound):
            segment = now.worst()
            best: tuple[bool, float, Choice, Memory] | None = None
            for _, other in sorted(self.changes(choice, now, segment), key=lambda t: -t[0])[:TRIED]:
                if _key(other) in seen:
                    continue
                then = estimate.memory(other, now)
                gain = now.excess(nbytes) - then.excess(nbytes)
                score = gain / max(then.cost - now.cost, LITTLE) if gain > 0 else gain
                if best is None or (gain > 0, score) > best[:2]:
                    best = gain > 0, score, other, then
            if best is None or estimate.count > limit:
                break
            *_, choice, now = best
            seen.add(_key(choice))
            if now.most() < least[0]:
                least, limit = (now.most(), choice, now), estimate.count + STALL
        return Found(*least[1:], scratch_limit)

    def lighter(self, nbytes: float, found: Found) -> Found:
        """A choice of less work that takes no more than so many bytes either: what was needless is taken back."""
        usual, estimate = self.usual().held, self.estimates(found.scratch_limit)
        choice, now = found[:2]
        while True:
            best = None
            for name in [n for n in choice.held if n not in usual]:
                for held in self.easier(choice, name):
                    then = estimate.memory(Choice(held, choice.parts), now)
                    if then.most() <= nbytes and then.cost < (best[1] if best else now).cost:
                        best = Choice(held, choice.parts), then
            for segment, parts in choice.parts.items():
                less = {s: p for s, p in choice.parts.items() if s != segment} | ({segment: parts // 2} if parts > 2 else {})
                then = estimate.memory(Choice(choice.held, less), now)
                if then.most() <= nbytes and then.cost < (best[1] if best else now).cost:
                    best = Choice(choice.held, less), then
            if best is None:
                break
            choice, now = best
        return Found(choice, now, found.scratch_limit)

    def easier(self, choice: Choice, name: str) -> list[dict[str, tuple[int, int]]]:
        """What is held when a value is computed again less often."""
        kept = {n: how for n, how in choice.held.items() if n != name}
        before, after = choice.held[name]
        if self.segments.at[name] >= self.segments.forward or after == before:
            return [kept]
        return [kept, {**kept, name: (before, before)}, *([{**kept, name: (before, before + 1)}] if after == EVER else [])]

    def changes(self, choice: Choice, now: Memory, segment: int) -> list[tuple[float, Choice]]:
        """(how much it promises, the choice) for each change that may help a segment."""
        of, found = self.segments, []
        reads, clones = now.needs.reads, now.needs.clones

        def parts(number: int) -> list[int]:
            """In how many parts a segment might be done instead."""
            most = [k for k in (2, 4, 8, 16, 32) if of.count % k == 0 and k > choice.parts.get(number, 1)]
            return most if number >= 0 and any(of.places[i] is not None for i in of.segments[number]) else []

        for name in now.live(segment):
            value = name.removesuffix("/late")
            spec = of.specs[value]
            if spec.nbytes < LEAST or not of.able(value) or (value not in self.active and of.at[value] < of.forward):
                continue
            before, after = choice.held.get(value, (EVER, EVER))
            later = [s for s in range(len(of.segments)) if value in reads[s] or value in clones[s]]
            if not later or (value == name and segment >= before):
                continue
            options = {AGAIN}
            if of.at[value] < of.forward:
                first = max(segment, 0) if later[0] < segment else 0
                if value != name:  # it was computed again
                    options = {(before, EVER), (before, segment + 1)} - {(before, after)}
                else:
                    options = {(first, EVER), (first, first), (first, segment + 1)}
            price = self.estimates(LEAST_AT_ONCE).price(of.whole.nodes[of.at[value]])
            for option in sorted(options):
                held = {**choice.held, value: option}
                promise = spec.nbytes / (price * max(1, sum(option[0] <= s < option[1] for s in later)))
                found.append((promise, Choice(held, choice.parts)))
                there = [s for s in later if option[0] <= s < max(option[1], option[0] + 1)] or [segment]
                for some in (there[:1], there)[: len(there)]:
                    most = {s: k for s in some for k in parts(s)[-1:]}
                    found += [(promise * 0.99, Choice(held, {**choice.parts, **most}))] if most else []
        found += [(float("inf"), Choice(choice.held, {**choice.parts, segment: k})) for k in parts(segment)]
        if choice.parts.get(segment, 1) > 1:
            found.append((float("inf"), Choice(choice.held, {**choice.parts, segment: choice.parts[segment] // 2})))
        usual = self.usual().held
        for name in sorted(clones[segment]) if segment >= 0 else ():
            if name not in usual:
                found += [(0.0, Choice(held, choice.parts)) for held in self.easier(choice, name)]
        return found


def _key(choice: Choice) -> tuple[Any, ...]:
    return tuple(sorted(choice.held.items())), tuple(sorted(choice.parts.items()))
