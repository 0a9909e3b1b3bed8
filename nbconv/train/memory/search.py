"""What a training step keeps, computes again and does in parts, so that it fits a number of bytes.

From the plan that keeps what convolutions give, the segment that needs most is looked at again and again: each value that
lives there may be made later or once more, the segment may be done in more parts. Of what helps, that is chosen which saves
most bytes a second of work (after Chen 2016, and Jain 2020, "Checkmate", who solve it exactly).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from nbconv.passes.rematerialise import LEAST, cheap
from nbconv.passes.segments import AGAIN, EVER, Choice, Segments
from nbconv.train.memory.estimate import Estimate, Memory

TRIED = 16
"""Changes of which the effect is worked out at a time."""
ROUNDS = 200
"""Most changes that are made."""
LIMIT = 600
"""Most estimates that are made without getting lower."""
HALVINGS = 4
"""How often the least memory is narrowed down."""
LITTLE = 1e6
"""Floating-point operations that count for nothing."""


class Budget:
    """Finds what to choose for segments. ``active``: values of the forward part that depend on what trains."""

    def __init__(self, segments: Segments, estimate: Estimate, active: Iterable[str]) -> None:
        self.segments, self.estimate, self.memory, self.active = segments, estimate, estimate.memory, set(active)

    def usual(self) -> Choice:
        """What costs little is computed again in each segment."""
        held = {}
        for node in self.segments.whole.nodes[: self.segments.forward]:
            y = node.outputs[0]
            if y in self.active and self.segments.able(y) and cheap(node, self.segments.specs[y]):
                held[y] = AGAIN
        return Choice(held, {})

    def least(self) -> tuple[Choice, float]:
        """A choice that takes as little as can be found, and what it takes by estimate."""
        best = self.fit(0.5 * self.memory(self.usual()).most())
        low = 0.0
        for _ in range(HALVINGS):
            wanted = (low + best[1]) / 2
            found = self.fit(wanted)
            low = low if found[1] <= wanted else wanted
            best = min(best, found, key=lambda f: f[1])
        return best

    def fit(self, nbytes: float) -> tuple[Choice, float]:
        """A choice that takes no more than so many bytes by estimate, or the least that was found, and what it takes."""
        choice = self.usual()
        now = self.memory(choice)
        least, seen, limit = (now.most(), choice), {_key(choice)}, self.estimate.count + LIMIT
        for _ in range(ROUNDS):
            if now.most() <= nbytes:
                choice, now = self.lighter(nbytes, choice, now)
                return choice, now.most()
            segment = max(now.peaks, key=lambda s: now.peaks[s])
            best: tuple[bool, float, Choice, Memory] | None = None
            for _, other in sorted(self.changes(choice, now, segment), key=lambda t: -t[0])[:TRIED]:
                if _key(other) in seen:
                    continue
                then = self.memory(other)
                gain = _excess(now, nbytes) - _excess(then, nbytes)
                score = gain / max(then.cost - now.cost, LITTLE) if gain > 0 else gain
                if best is None or (gain > 0, score) > best[:2]:
                    best = gain > 0, score, other, then
            if best is None or self.estimate.count > limit:
                break
            *_, choice, now = best
            seen.add(_key(choice))
            if now.most() < least[0]:
                least, limit = (now.most(), choice), self.estimate.count + LIMIT
        return least[1], least[0]

    def lighter(self, nbytes: float, choice: Choice, now: Memory) -> tuple[Choice, Memory]:
        """A choice of less work that takes no more than so many bytes either: what was needless is taken back."""
        usual = self.usual().held
        for _ in range(ROUNDS):
            best = None
            for name in [n for n in choice.held if n not in usual]:
                for held in self.easier(choice, name):
                    then = self.memory(Choice(held, choice.parts))
                    if then.most() <= nbytes and then.cost < (best[1] if best else now).cost:
                        best = Choice(held, choice.parts), then
            for segment, parts in choice.parts.items():
                less = {s: p for s, p in choice.parts.items() if s != segment} | ({segment: parts // 2} if parts > 2 else {})
                then = self.memory(Choice(choice.held, less))
                if then.most() <= nbytes and then.cost < (best[1] if best else now).cost:
                    best = Choice(choice.held, less), then
            if best is None:
                break
            choice, now = best
        return choice, now

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
        needs = of.needs(choice)
        reads, clones = needs.reads, needs.clones

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
            price = self.estimate.price(of.whole.nodes[of.at[value]])
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


def _excess(memory: Memory, nbytes: float) -> float:
    return sum(max(0.0, p - nbytes) for p in memory.peaks.values())
