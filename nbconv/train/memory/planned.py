"""From what is to be trained to a step that fits its memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from nbconv.base.machine import available_threads
from nbconv.edit.parameters import norms
from nbconv.graph import Spec
from nbconv.runtime.planned import target_of
from nbconv.train import building
from nbconv.train.building import Built
from nbconv.train.forward import Indivisible, samples_in
from nbconv.train.memory.estimate import Estimate
from nbconv.train.memory.policy import MIB, USUAL, MemoryPolicy, TooLarge, accumulating, depending, mebibytes, micro_batches
from nbconv.train.memory.search import Found, Search
from nbconv.train.recipe import Recipe
from nbconv.train.step import TrainingStep

SLOTS = 2
"""Threads for which there is memory in a plan in segments, at least: one thread and two have the same plan."""
STAGED = (0.99, 0.97, 0.95, 0.93)
"""Shares of the memory that estimates may take: values do not fit together without gaps."""


class Way(NamedTuple):
    """A step that there may be, before it is planned. What it is does not depend on the memory that it may take."""

    built: Built
    policy: MemoryPolicy
    floor: float = 0.0
    """bytes below which it is not tried"""


def planned(
    recipe: Recipe,
    feeds: Mapping[str, Spec],
    targets: Mapping[str, Spec],
    state: Mapping[str, np.ndarray],
    memory_mb: float | None,
    micro_batch_norm: bool,
    rows: int = 0,
    **options: Any,
) -> tuple[Built, TrainingStep, MemoryPolicy]:
    """The fastest step that takes no more than ``memory_mb``, and how it saves: see `building.build`. Batches are cut only
    where no batch normalisation takes statistics, unless ``micro_batch_norm``. ``rows``: samples of the batches that this
    one was gathered from, which are its micro-batches where they can be: of each of them statistics are taken, whatever the
    memory. TooLarge says the least it needs: what is less is refused, all else is not."""
    ways = Ways(recipe, feeds, targets, state, micro_batch_norm, rows, **options)
    if memory_mb is None:
        way = ways.gathered or ways.usual
        return way.built, ways.step(way, None), way.policy
    for way in ways.fastest(memory_mb * MIB):
        try:
            return way.built, ways.step(way, memory_mb), way.policy
        except TooLarge as error:
            ways.refused.append((way, error))
    nbytes, way = ways.least()
    if nbytes <= memory_mb * MIB:
        return way.built, ways.step(way, memory_mb), way.policy
    more = ", micro_batch_norm=True would cut the batch" if ways.cut_by_norms else ""
    raise TooLarge(
        f"a step on these shapes needs {mebibytes(nbytes)} MiB for activations, gradients and scratch with all that is "
        f"computed again, memory_mb is {memory_mb:g}: smaller batches or fewer trained layers need less{more}",
        nbytes,
        nbytes,
    )


class Ways:
    """The steps that there may be for a recipe: the usual one, those in segments, those in micro-batches."""

    def __init__(
        self,
        recipe: Recipe,
        feeds: Mapping[str, Spec],
        targets: Mapping[str, Spec],
        state: Mapping[str, np.ndarray],
        micro_batch_norm: bool,
        rows: int = 0,
        **options: Any,
    ) -> None:
        self.recipe, self.feeds, self.targets, self.state, self.options = recipe, feeds, targets, state, options
        home = options.get("home")
        self.target = target_of(None if home is None else home.device, options.get("exact", False))
        self.slots = max(options.get("threads") or available_threads(), SLOTS)
        self.samples = samples_in(feeds)
        trained = bool(norms(recipe.graph, recipe.chosen))
        self.rows = rows if rows < self.samples else 0
        self.divisible = micro_batch_norm or not trained
        self.cut_by_norms = not self.divisible and self.samples > 1
        self.refused: list[tuple[Way, TooLarge]] = []
        """what takes too much memory"""

    @cached_property
    def usual(self) -> Way:
        return Way(self._built(USUAL), USUAL)

    @cached_property
    def gathered(self) -> Way | None:
        """In the batches that this one was gathered from, None where it was not, or where it cannot be cut."""
        if not self.rows:
            return None
        policy = accumulating(self.samples, self.rows)
        try:
            return Way(self._built(policy), policy)
        except Indivisible:
            return None

    @property
    def settled(self) -> bool:
        """Whether there is no other way than `gathered`: others take statistics of more samples, or of fewer."""
        return not self.divisible and self.gathered is not None

    @cached_property
    def micro(self) -> list[Way]:
        """In micro-batches."""
        found = []
        for policy in micro_batches(self.samples) if self.divisible else ():
            try:
                found.append(Way(self._built(policy), policy))
            except Indivisible:
                continue
        return found

    def _built(self, policy: MemoryPolicy) -> Built:
        return building.build(self.recipe, self.feeds, self.targets, self.state, policy, self.target.gpu)

    @cached_property
    def differentiated(self) -> building.Differentiated:
        return building.differentiated(self.recipe, self.feeds, self.targets, self.state, gpu=self.target.gpu)

    @cached_property
    def search(self) -> Search:
        """For what to choose in segments."""
        of = self.differentiated
        segments = building.segmented(of, self.feeds)

        def estimates(scratch_limit: float) -> Estimate:
            return Estimate(segments, self.target, self.slots, USUAL.packed, scratch_limit)

        return Search(segments, estimates, depending(of.logits, [p.value for p in self.recipe.chosen]))

    def segmented(self, found: Found, floor: float = 0.0) -> Way:
        """In segments, as was chosen."""
        whole = self.search.segments.graph(found.choice)
        built = building.finished(self.recipe, self.differentiated, whole, self.state)
        return Way(built, MemoryPolicy(scratch_limit=found.scratch_limit, segmented=True), floor)

    def fastest(self, nbytes: float) -> Iterator[Way]:
        """What may take so many bytes, from fast to small."""
        if self.gathered:
            yield self.gathered
        if self.settled:
            return
        yield self.usual
        tried = None
        for share in STAGED:
            found = self.search.plan(self.search.rung(share * nbytes))
            if found is None:
                break
            if found is not tried:
                yield self.segmented(found)
            tried = found
        yield from self.micro

    def least(self) -> tuple[float, Way]:
        """The fewest bytes that are enough, and for what. What was `refused` is not tried again where it takes more."""
        best: tuple[float, Way] | None = None
        for way, error in self.refused:
            if not way.policy.segmented and (best is None or error.live < best[0]):
                best = self._better(best, way, error)
        if self.settled and best is not None:
            return best
        tried = self.search.lowest()
        best = self._better(best, self.segmented(tried, tried.nbytes), None)
        rung = self.search.rung(tried.nbytes)
        while rung >= 0 and (height := self.search.height(rung)) < best[0]:
            found = self.search.plan(rung) or tried
            if found is not tried:
                best = self._better(best, self.segmented(found, height), None)
            tried, rung = found, rung - 1
        assert best is not None
        return best

    def _better(self, best: tuple[float, Way] | None, way: Way, error: TooLarge | None) -> tuple[float, Way]:
        """The better of what there is and this way, in the order of its values that takes least."""
        if error is None:
            nbytes = self._taken(way, way.floor)
        else:
            nbytes = self._taken(way, error.live) if error.live < error.nbytes else error.nbytes
        found = max(nbytes, way.floor), way
        return found if best is None or found[0] < best[0] else best

    def _taken(self, way: Way, nbytes: float) -> float:
        """The bytes that a step takes that is to take so many, or as few as can be."""
        try:
            return self.step(way, nbytes / MIB).memory
        except TooLarge as error:
            return error.nbytes

    def step(self, way: Way, memory_mb: float | None) -> TrainingStep:
        """The step, planned. TooLarge if it takes more."""
        built, policy = way.built, way.policy
        held = {n: self.state[n] for n in built.graph.inputs if n in self.state}
        fed = {n: s for n, s in built.graph.inputs.items() if n not in held}
        return TrainingStep(
            built.graph,
            fed,
            held,
            built.updates,
            tuple(dict.fromkeys((built.loss, *built.told.values(), *filter(None, [built.norm])))),
            memory_mb=memory_mb,
            packed=policy.packed,
            scratch_limit=policy.scratch_limit,
            slots=self.slots if policy.segmented else 1,
            **self.options,
        )
