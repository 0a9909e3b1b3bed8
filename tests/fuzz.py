"""Random graphs, run by nbconv and node by node in float64, and so are their gradients. ``python -m tests.fuzz [SEED
[COUNT]]`` runs them from a seed on.

A failure prints the one line that runs that graph alone.
"""

from __future__ import annotations

import sys
import traceback

import numpy as np

from nbconv.edit.parameters import parameters
from nbconv.graph import Graph, Spec, spec_of
from nbconv.lowering.weights import Weights
from nbconv.model import Model
from nbconv.passes.autodiff import backprop
from nbconv.passes.fold import fold
from tests.gradients import PENDING
from tests.kernels.harness import reference
from tests.random_graphs import Generator

F32 = np.dtype(np.float32)


def check(seed: int, nodes: int = 0) -> None:
    """One random graph: every fetched value near float64's, the same bits on two threads and when fetched differently."""
    generator = Generator(seed)
    graph = generator.graph(nodes or generator.pick((3, 6, 12, 20)))
    before = repr(graph.nodes)
    rng = np.random.default_rng(seed + 1)
    feeds = {n: rng.standard_normal(s.shape).astype(np.float32) for n, s in graph.inputs.items()}
    with np.errstate(all="ignore"):
        want, single = reference(graph, feeds), reference(graph, feeds, np.float32)
    model = Model(graph, threads=1)
    found = model.run(feeds)
    for name, y in model.run(feeds, threads=2).items():
        assert y.tobytes() == found[name].tobytes(), f"{name}: two threads give other bits"
    some = [n for n in graph.values() if rng.random() < 0.5] or list(graph.outputs)
    for results in (found, model.run(feeds, fetch=some), model.run(feeds, fetch=list(graph.values())), model.run(feeds)):
        for name, y in results.items():
            compare(name, y, want[name], single[name])
    assert repr(graph.nodes) == before, "planning changed the authored graph"


def check_gradients(seed: int, nodes: int = 0) -> None:
    """One random graph: the gradients of its outputs by its inputs and weights, planned and run as one graph with it, near
    the references' in float64; the same bits on two threads."""
    generator = Generator(seed, without=PENDING)
    graph = generator.graph(nodes or generator.pick((3, 6, 12, 20)))
    rng = np.random.default_rng(seed + 1)
    feeds = {n: rng.standard_normal(s.shape).astype(np.float32) for n, s in graph.inputs.items()}
    _, specs, _ = fold(graph, graph.inputs, Weights(), frozenset(graph.values()))
    specs |= {n: spec_of(x) for n, x in graph.constants.items()}
    slopes = {f"d{n}": Spec(specs[n].shape, F32) for n in graph.outputs}
    feeds |= {n: rng.standard_normal(s.shape).astype(np.float32) for n, s in slopes.items()}
    whole = Graph(graph.nodes, {**graph.inputs, **slopes}, graph.outputs, graph.constants)
    wrt = [*graph.inputs, *(p.value for p in parameters(graph))]
    derived, _, found = backprop(whole, {**specs, **slopes}, {n: f"d{n}" for n in graph.outputs}, wrt)
    if not found:
        return
    with np.errstate(all="ignore"):
        want, single = reference(derived, feeds), reference(derived, feeds, np.float32)
    model = Model(derived, threads=1)
    got = model.run(feeds)
    for name, y in model.run(feeds, threads=2).items():
        assert y.tobytes() == got[name].tobytes(), f"{name}: two threads give other bits"
    floats = [v for v in want.values() if v.dtype.kind == "f"]
    floor = 1e-6 * max(np.abs(v[np.isfinite(v)]).max(initial=0) for v in floats)  # sums that come to 0 have terms
    for name in (*graph.outputs, *found.values()):
        compare(name, got[name], want[name], single[name], floor)


def compare(name: str, y: np.ndarray, want: np.ndarray, single: np.ndarray, floor: float = 0.0) -> None:
    """Within 2e-5 of the largest, and 8 times what NumPy's float32 misses, and ``floor``."""
    assert y.shape == want.shape, f"{name}: {y.shape}, wanted {want.shape}"
    if y.dtype == np.bool_:
        return  # comparisons of what is nearly equal may differ
    scale = np.abs(want).max(initial=0)
    assert np.isfinite(scale), f"{name}: the generator made {scale}"
    error = np.abs(y - want).max(initial=0)
    bound = 2e-5 * scale + 8 * np.abs(single - want).max(initial=0) + floor + 1e-30
    assert error <= bound, f"{name}: off by {error:.3g}, at most {bound:.3g} are allowed, values up to {scale:.3g}"


def main() -> None:
    first = int(sys.argv[1]) if len(sys.argv) > 1 else 0
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 100
    failed = 0
    for seed in range(first, first + count):
        try:
            check(seed)
            check_gradients(seed)
        except Exception as error:
            failed += 1
            traceback.print_exc(limit=-2)
            print(f"FAILED {error}\n  python -m tests.fuzz {seed} 1", flush=True)
    print(f"{count} graphs, {failed} failed")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
