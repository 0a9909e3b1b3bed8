"""From what is to be trained to a step that fits its memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from nbconv.base.machine import available_threads
from nbconv.edit.parameters import norms
from nbconv.errors import ModelError
from nbconv.graph import Spec
from nbconv.runtime.planned import target_of
from nbconv.train import building
from nbconv.train.building import Built, Indivisible, Recipe
from nbconv.train.memory.policy import MIB, USUAL, MemoryPolicy, TooLarge, accumulating, levels
from nbconv.train.step import TrainingStep

SLOTS = 2
"""Threads for which there is memory in a plan in segments, at least: one thread and two have the same plan."""
FAR = 1.1
"""How much more than it may an estimate takes where there is no use in trying other segments."""


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
    one was gathered from, which are its micro-batches where they can be. ModelError says the least it needs."""
    trained_norms = bool(norms(recipe.graph, recipe.chosen))
    samples = min((s.shape[0] if s.shape else 1 for s in feeds.values()), default=1)
    gathered = 0 < rows < samples
    micro_batch_norm = micro_batch_norm or gathered
    tries = [USUAL] if memory_mb is None else levels(samples, micro_batch_norm or not trained_norms, memory_mb * MIB)
    if gathered:
        tries = [accumulating(samples, rows), *tries]
    least = float("inf")
    hopeless = False
    home = options.get("home")
    target = target_of(None if home is None else home.device, options.get("exact", False))
    slots = max(options.get("threads") or available_threads(), SLOTS)
    for policy in tries:
        if policy.most and hopeless:
            continue
        try:
            built = building.build(recipe, feeds, targets, state, policy, slots, target)
        except Indivisible:
            continue
        hopeless = policy.most is not None and built.estimate > FAR * policy.most
        held = {n: state[n] for n in built.graph.inputs if n in state}
        fed = {n: s for n, s in built.graph.inputs.items() if n not in held}
        try:
            step = TrainingStep(
                built.graph,
                fed,
                held,
                built.updates,
                tuple(dict.fromkeys((built.loss, *built.told.values(), *filter(None, [built.norm])))),
                memory_mb=memory_mb,
                packed=policy.packed,
                scratch_limit=policy.scratch_limit,
                slots=1 if policy.most is None else slots,
                **options,
            )
        except TooLarge as error:
            if not policy.most:  # the others depend on memory_mb
                least = min(least, error.nbytes)
            continue
        return built, step, policy
    assert memory_mb is not None
    more = ", micro_batch_norm=True would cut the batch" if trained_norms and not micro_batch_norm and samples > 1 else ""
    raise ModelError(
        f"a step on these shapes needs {least / MIB:.1f} MiB for activations, gradients and scratch with all that is "
        f"computed again, memory_mb is {memory_mb:g}: smaller batches or fewer trained layers need less{more}"
    )
