"""The graph of a training step: a model's graph, the loss, gradients, and what updates the state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from nbconv.edit.parameters import Parameter
from nbconv.errors import ModelError
from nbconv.graph import Graph, Spec
from nbconv.graph.builder import Builder
from nbconv.passes.autodiff import backprop
from nbconv.passes.fuse_relu_bn_grad import fuse_relu_bn_grad
from nbconv.passes.masks import with_masks
from nbconv.passes.rematerialise import rematerialise, sums_early
from nbconv.passes.segments import Segments
from nbconv.train.forward import forward, samples_in, widened
from nbconv.train.memory.policy import USUAL, MemoryPolicy, again
from nbconv.train.recipe import Recipe
from nbconv.train.updates import updated


class Built(NamedTuple):
    """A training step as a graph, and what goes in and out."""

    graph: Graph
    loss: str
    updates: dict[str, str]
    trained: tuple[Parameter, ...]
    shapes: Mapping[str, tuple[int, ...]]
    """of the logits, by name"""
    told: Mapping[str, str] = {}
    """the values of what else it tells"""
    gradients: Mapping[str, str] = {}
    """of parameters, before they are clipped"""
    norm: str = ""
    """of all gradients together, where it is limited"""


class Differentiated(NamedTuple):
    """A loss and its gradients, of which a step is made."""

    graph: Graph
    specs: dict[str, Spec]
    forward: int
    """how many nodes come first that are the forward part"""
    logits: Graph
    """the forward part up to the logits"""
    values: dict[str, str]
    """of the logits, in float32, by name"""
    loss: str
    gradients: dict[str, str]
    told: Mapping[str, str]
    """the values of what else the step tells"""


def differentiated(
    recipe: Recipe,
    feeds: Mapping[str, Spec],
    targets: Mapping[str, Spec],
    state: Mapping[str, np.ndarray],
    policy: MemoryPolicy = USUAL,
    gpu: bool = False,
) -> Differentiated:
    """Loss and gradients for feeds of these Specs, in micro-batches. ``state`` has an array for each parameter, statistic
    and slot. ``gpu``: for a GPU, whose kernels know no masks and no gradients of some channels alone.

    ModelError says what does not fit, MissingGradients which nodes have no gradient.
    """
    graph, specs = forward(recipe, feeds, _specs(state), policy)
    values = {n: widened(n) if widened(n) in specs else n for n in recipe.logits}
    to = Builder(graph, specs)
    for name, spec in targets.items():
        to.input(name, spec)
    loss = recipe.loss(to, values)
    if to.spec(loss).size != 1:
        raise ModelError(f"the loss is {to.spec(loss)}, wanted a scalar")
    one = to.constant(np.ones(to.spec(loss).shape, np.float32))
    told = recipe.told(to, values) if recipe.told else {}
    whole = to.graph((loss, *dict.fromkeys(told.values())))
    count = len(whole.nodes)
    chosen = [p.value for p in recipe.chosen]
    whole, specs, gradients = backprop(whole, to.specs, {loss: one}, chosen, recipe.rows, not gpu)
    if not gpu:
        whole, specs, count = with_masks(whole, specs, count)
    return Differentiated(sums_early(whole, count), specs, count, graph, values, loss, gradients, told)


def build(
    recipe: Recipe,
    feeds: Mapping[str, Spec],
    targets: Mapping[str, Spec],
    state: Mapping[str, np.ndarray],
    policy: MemoryPolicy = USUAL,
    gpu: bool = False,
) -> Built:
    """The step in which what is cheap is computed again, or with micro-batches much: see `differentiated`."""
    of = differentiated(recipe, feeds, targets, state, policy, gpu)
    chosen = again(of.logits, [p.value for p in recipe.chosen], of.values.values(), policy)
    return finished(recipe, of, rematerialise(of.graph, of.specs, of.forward, chosen), state)


def segmented(of: Differentiated, feeds: Mapping[str, Spec]) -> Segments:
    """Its backward part in segments, of whose `Segments.graph` `finished` makes a step."""
    whole = fuse_relu_bn_grad(of.graph, frozenset(of.gradients.values()))
    return Segments(whole, dict(of.specs), of.forward, samples_in(feeds))


def finished(recipe: Recipe, of: Differentiated, whole: Graph, state: Mapping[str, np.ndarray]) -> Built:
    """The step of this graph, which is that of `differentiated` with some of its values computed again."""
    to = Builder(whole, of.specs, "update/")
    updates, norm = updated(to, recipe, of.gradients, of.logits, of.specs, _specs(state))
    result = to.graph()
    outputs: list[str] = [of.loss, *of.told.values(), *filter(None, [norm]), *updates.values()]
    result.outputs = dict.fromkeys(outputs)
    trained = tuple(p for p in recipe.chosen if p.value in of.gradients)
    shapes = {n: of.specs[v].shape for n, v in of.values.items()}
    return Built(result, of.loss, updates, trained, shapes, of.told, of.gradients, norm)


def _specs(state: Mapping[str, np.ndarray]) -> dict[str, Spec]:
    return {n: Spec(a.shape, a.dtype) for n, a in state.items()}
