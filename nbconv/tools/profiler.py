"""What each step of a plan costs: its work by the arguments of its kernel, its time by running it, and how close it comes
to the roofline of the machine, where that is a CPU."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from nbconv.lowering.context import Ref, Step, tiles
from nbconv.ops.conv import Convolution
from nbconv.plan.plan import NUMPY_STEP
from nbconv.runtime.executor import Workspace, time_steps, workspace
from nbconv.tools.roofline import Roofline, roofline

if TYPE_CHECKING:
    from nbconv.model import Model
    from nbconv.plan.plan import Plan

KINDS = ("pointwise", "winograd", "convolution", "depthwise", "dense", "other", "numpy")
"""Kinds of steps, see `kind`."""


class Cost(NamedTuple):
    """What a step does: ``flops`` of the mathematics, ``arithmetic`` that its algorithm does instead (Winograd's products
    are fewer), bytes of values read and written, bytes of constants read."""

    flops: int
    arithmetic: int
    reads: int
    writes: int
    weights: int

    @property
    def nbytes(self) -> int:
        return self.reads + self.writes + self.weights


class Timed(NamedTuple):
    """One step of a profile. ``bound`` is the least time that the roofline allows, ``limit`` what sets it ("compute", or the
    level of the memory: of the weights where these take longest), ``level`` what holds its values. None on a GPU, whose
    roofline is not known."""

    number: int
    step: Step
    name: str
    kind: str
    algorithm: str
    seconds: float
    cost: Cost
    bound: float | None
    limit: str | None
    level: str | None

    @property
    def share_of_roof(self) -> float | None:
        """The bound over the time: 1 is the best that there can be."""
        return share_of_roof([self], self.seconds)


class Profile(NamedTuple):
    """``seconds`` is the median of whole runs, which do not stop between steps. A GPU has no ``threads`` to count, and its
    ``roof`` is not known."""

    plan: Plan
    roof: Roofline | None
    threads: int | None
    runs: int
    seconds: float
    steps: list[Timed]

    @property
    def total(self) -> float:
        """The sum of the steps' times."""
        return sum(s.seconds for s in self.steps)


def share_of_roof(steps: list[Timed], seconds: float) -> float | None:
    """The least time of these steps over the time that they took; None where it is not known."""
    bounds = [s.bound for s in steps if s.bound is not None]
    if len(bounds) < len(steps):
        return None
    return sum(bounds) / seconds if seconds > 0 else 0.0


def as_json(found: Profile, name: str, shapes: Mapping[str, Any]) -> dict[str, Any]:
    """All of a profile as numbers, texts, lists and dicts: seconds, bytes, operations a second; None is not known."""
    plan, total = found.plan, found.total
    steps = []
    for s in found.steps:
        seconds, made = s.seconds, plan.specs[s.step.node.outputs[0]]
        steps.append({
            "step": s.number, "name": s.name, "op": repr(s.step.node.op).partition("(")[0], "kind": s.kind,
            "kernel": s.step.kernel or "numpy",
            "algorithm": s.algorithm, "shape": list(made.shape), "units": s.step.units, "seconds": seconds,
            "share": seconds / total if total else 0.0, "flops": s.cost.flops, "arithmetic": s.cost.arithmetic,
            "reads": s.cost.reads, "writes": s.cost.writes, "weights": s.cost.weights,
            "flops_per_second": s.cost.flops / seconds, "arithmetic_per_second": s.cost.arithmetic / seconds,
            "bytes_per_second": s.cost.nbytes / seconds, "bound": s.bound, "share_of_roof": s.share_of_roof,
            "limit": s.limit, "level": s.level,
        })  # fmt: skip
    kinds = {}
    for kind in KINDS:
        mine = [s for s in found.steps if s.kind == kind]
        if mine:
            seconds, flops = sum(s.seconds for s in mine), sum(s.cost.flops for s in mine)
            kinds[kind] = {
                "steps": len(mine), "seconds": seconds, "share": seconds / total, "flops_per_second": flops / seconds,
                "share_of_roof": share_of_roof(mine, seconds),
            }  # fmt: skip
    return {
        "model": name, "inputs": {n: list(s) for n, s in shapes.items()}, "target": plan.target.name,
        "threads": found.threads,
        "runs": found.runs, "seconds": found.seconds, "sum_of_steps": total, "flops": sum(s.cost.flops for s in found.steps),
        "share_of_roof": share_of_roof(found.steps, total),
        "roofline": None if found.roof is None else found.roof.as_json(),
        "memory": {"arena": plan.arena, "weights": sum(a.nbytes for a in plan.arrays.values())}, "kinds": kinds,
        "steps": steps,
    }  # fmt: skip


def profile(
    model: Model, feeds: Mapping[str, Any], *, threads: int | None = None, runs: int = 20, warmup: int = 2
) -> Profile:
    """Time each step of a model's plan for these inputs, in the order in which they run, ``runs`` times: medians. On a GPU a
    step's time holds its launch, the copies that it needs, and the wait until it is done."""
    given = {name: np.require(array, requirements="C") for name, array in feeds.items()}
    count = model.threads if threads is None else threads
    plan = model.plan({name: array.shape for name, array in given.items()})
    program = model.bound(plan)
    space = workspace(program)
    results = [np.empty(shape, dtype) for _, shape, dtype in program.results]
    for _ in range(warmup):
        space.run(given, results, count)
    whole = []
    for _ in range(max(3, runs)):
        start = time.perf_counter()
        space.run(given, results, count)
        whole.append(time.perf_counter() - start)
    seconds = float(np.median(whole))
    if isinstance(space, Workspace):
        times = np.median(time_steps(space, given, results, count, runs), 0)
        roof = roofline(count, plan.target)
        return Profile(plan, roof, count, runs, seconds, timed(plan, roof, times))
    from nbconv.runtime.cuda.workspace import time_steps as time_on_device

    times = np.median(time_on_device(space, given, runs), 0)
    return Profile(plan, None, None, runs, seconds, timed(plan, None, times))


def timed(plan: Plan, roof: Roofline | None, times: np.ndarray) -> list[Timed]:
    """The plan's steps with their seconds, costs and bounds."""
    costs = [cost(plan, step) for step in plan.steps]
    everything = sum(plan.arrays[n].nbytes for n in plan.arrays) + plan.arena
    found = []
    for i, (step, c, seconds) in enumerate(zip(plan.steps, costs, times, strict=True)):
        bound, limit, level = bounded(c, roof, everything) if roof is not None else (None, None, None)
        name = step.node.name or step.node.outputs[0]
        of = found[-1].kind if step.kernel == "gemm.finish" else kind(step)  # the product's, whose parts it adds
        found.append(Timed(i, step, name, of, algorithm(step), float(seconds), c, bound, limit, level))
    return found


def bounded(c: Cost, roof: Roofline, everything: float) -> tuple[float, str, str]:
    """(seconds that a step takes at least, what sets them, the level that holds its values). Values come from the nearest
    levels; weights from the one that holds all that a run touches (``everything``), since a run reads each of them once."""
    level, far = roof.level(c.reads + c.writes), roof.level(everything)
    weights = c.weights / far.read
    moving = roof.move(c.reads, c.writes) + weights
    computing = c.arithmetic / roof.flops
    if computing >= moving:
        return computing, "compute", level.name
    return moving, far.name if weights > moving / 2 else level.name, level.name


def kind(step: Step) -> str:
    """One of `KINDS`: dense is a product with one row, pointwise a 1×1 convolution or another product."""
    a = step.arguments
    if step.kernel == NUMPY_STEP:
        return "other" if step.node.op.control else "numpy"
    if step.kernel.startswith("winograd.") or _by_points(step):
        return "winograd"
    if step.kernel.startswith("depthwise."):
        return "depthwise"
    if step.kernel == "conv.conv":
        if a["window.kh"] == a["window.kw"] == 1 and step.node.op.type != "ConvTranspose":
            return "dense" if a["image.m"] == 1 else "pointwise"
        return "convolution"
    if step.kernel == "gemm.gemm":
        return "dense" if a["matrices.m"] == 1 else "pointwise"
    return "other"


def _by_points(step: Step) -> bool:
    """Whether a step is the product between Winograd's transforms on a GPU."""
    return step.kernel == "gemm.gemm" and isinstance(step.node.op, Convolution)


def algorithm(step: Step) -> str:
    """How the step does its work, in a few words: the kernel and its blocks."""
    a: dict[str, Any] = step.arguments
    family, _, kernel = step.kernel.partition(".")
    if step.kernel == NUMPY_STEP:
        return "programs" if step.node.op.control else "NumPy"
    if step.kernel == "winograd.winograd":
        size, tiles, columns = (a[f"filtering.{name}"] for name in ("size", "tiles", "columns"))
        return f"Winograd F({size}×{size},3×3), {tiles} tiles × {columns} columns"
    if step.kernel in ("conv.conv", "depthwise.depthwise"):
        kh, kw, sh, sw = (a[f"window.{name}"] for name in ("kh", "kw", "sh", "sw"))
        if step.kernel == "depthwise.depthwise":
            return f"depthwise {kh}×{kw} /{sh}"
        stride = "" if sh == sw == 1 else f" /{sh}"
        rows, panels, taps, channels = (a[f"blocking.{n}"] for n in ("rows", "panels", "tap_chunk", "channel_chunk"))
        return f"conv {kh}×{kw}{stride}, {rows} rows × {panels} panels, k {taps}×{channels}"
    if step.kernel == "gemm.gemm":
        rows, panels, chunk = (a[f"blocking.{name}"] for name in ("rows", "panels", "k_chunk"))
        return f"{'Winograd, ' * _by_points(step)}gemm, {rows} rows × {panels} panels, k {chunk}"
    if step.kernel == "gemm.finish":
        return f"sum of {a['parts.parts']} parts"
    return family if family == kernel else step.kernel


def cost(plan: Plan, step: Step) -> Cost:
    """What a step does, by its arguments where the kernel's work is known, else by the op and its values."""
    a: dict[str, Any] = {**step.arguments, "units": step.units, "lanes": plan.target.lanes}
    if step.kernel == "move.copy" and plan.target.gpu:
        a["units"] //= tiles(a["extents.n3"], a["extents.n4"])
    if step.kernel == NUMPY_STEP:
        return _numpy_cost(plan, step)
    known = _points if _by_points(step) else COSTS.get(step.kernel)
    given = tuple(plan.specs.get(n) if n else None for n in step.node.inputs)
    made = tuple(plan.specs[n] for n in step.node.outputs if n)
    if known is not None:
        flops, arithmetic, writes = known(a, made[0].shape)
    else:
        steps = sum(s.node is step.node for s in plan.steps)
        flops = arithmetic = (
            0 if step.node.op.type in ("Reorder", "Concat") else int(step.node.op.flops(given, made)) // steps
        )
        writes = sum(spec.nbytes for spec in made)
    most = 4 * writes if step.kernel.startswith("move.") else float("inf")
    reads = weights = 0
    for name, value in a.items():
        if not isinstance(value, Ref) or name in ("y", "v", "scratch", "zeros") or value.name in step.node.outputs:
            continue
        size = _size(plan, value.name)
        if plan.root(value.name) in plan.constants:
            weights += size
        else:
            reads += int(min(size * _seen(a) if name == "x" else size, most))
    if step.kernel == "move.copy":
        reads = min(reads, writes)
    return Cost(flops, arithmetic, reads, writes, weights)


def _numpy_cost(plan: Plan, step: Step) -> Cost:
    given = tuple(plan.specs[n] if n else None for n in step.node.inputs)
    made = tuple(plan.specs[n] for n in step.node.outputs if n)
    flops = int(step.node.op.flops(given, made))
    held = [(n in plan.constants, plan.specs[n].nbytes) for n in step.node.inputs if n]
    reads, weights = (sum(size for constant, size in held if constant == which) for which in (False, True))
    return Cost(flops, flops, reads, sum(spec.nbytes for spec in made), weights)


def _size(plan: Plan, name: str) -> int:
    """Bytes of a value, a scratch area or a constant."""
    root = plan.root(name)
    if root in plan.arrays:
        return plan.arrays[root].nbytes
    spec = plan.specs.get(name)
    return spec.nbytes if spec is not None else plan._scratches.get(name, 0)


def _seen(a: dict[str, Any]) -> float:
    """The part of an image that a window with gaps between its places reads."""
    if "window.kh" not in a:
        return 1.0
    kh, kw, sh, sw = (a[f"window.{name}"] for name in ("kh", "kw", "sh", "sw"))
    return min(1.0, kh / sh) * min(1.0, kw / sw if sw * a.get("image.cg", 1) else 1.0)


def _conv(a: dict[str, Any], y: tuple[int, ...]) -> tuple[int, int, int]:
    flops = 2 * a["image.m"] * y[1] * a["image.cg"] * a["window.kh"] * a["window.kw"]
    return flops, flops, 4 * a["image.m"] * y[1]


def _winograd(a: dict[str, Any], y: tuple[int, ...]) -> tuple[int, int, int]:
    pixels, oh, ow, ci, co = (a[f"image.{name}"] for name in ("m", "oh", "ow", "cg", "og"))
    size = a["filtering.size"]
    tiles = pixels // (oh * ow) * -(-oh // size) * -(-ow // size)
    return 18 * pixels * ci * co, 2 * (size + 2) ** 2 * tiles * ci * co, 4 * pixels * co


def _depthwise(a: dict[str, Any], y: tuple[int, ...]) -> tuple[int, int, int]:
    size = prod(y)
    flops = 2 * size * a["window.kh"] * a["window.kw"]
    return flops, flops, 4 * size


def _gemm(a: dict[str, Any], y: tuple[int, ...]) -> tuple[int, int, int]:
    flops = 2 * prod(y) * a["matrices.k"]
    return flops, flops, 4 * prod(y)


def _points(a: dict[str, Any], y: tuple[int, ...]) -> tuple[int, int, int]:
    """Of the product between Winograd's transforms on a GPU, or what it does of a group or some channels."""
    n, channels, oh, ow = y
    rows, columns, k = (a[f"matrices.{name}"] for name in ("m", "n", "k"))
    size = 4 if rows == n * -(-oh // 4) * -(-ow // 4) else 2
    products = (size + 2) ** 2 * rows * columns
    return 18 * prod(y) // channels * columns * k, 2 * products * k, 4 * products


def _finish(a: dict[str, Any], y: tuple[int, ...]) -> tuple[int, int, int]:
    n = a["parts.n"]
    rows = a["units"] // -(-n // a["lanes"])
    return 0, rows * n * a["parts.parts"], 4 * rows * n


COSTS: dict[str, Callable[[dict[str, Any], tuple[int, ...]], tuple[int, int, int]]] = {
    "conv.conv": _conv,
    "winograd.winograd": _winograd,
    "depthwise.depthwise": _depthwise,
    "gemm.gemm": _gemm,
    "gemm.finish": _finish,
    "winograd.transform_input": lambda a, y: (0, 0, 4 * (a["tiles.size"] + 2) ** 2 * a["tiles.total"] * a["c"]),
    "winograd.transform_output": lambda a, y: (0, 0, 4 * prod(y)),
    "move.copy": lambda a, y: (0, 0, 4 * a["units"] * a["extents.n3"] * a["extents.n4"]),
    "move.fill": lambda a, y: (0, 0, 4 * a["n"]),
}
"""(flops, arithmetic, bytes written) by a kernel's arguments (and the step's ``units``, the target's ``lanes``) and the
shape of the node's first output."""


class Life(NamedTuple):
    """Where and when a value lies in the arena: bytes from ``offset``, steps ``begin`` to ``end``, both included."""

    name: str
    offset: int
    nbytes: int
    begin: int
    end: int


def lives(plan: Plan) -> list[Life]:
    """Every value that the arena holds."""
    begins: dict[str, int] = {}
    ends: dict[str, int] = {}
    for i, step in enumerate(plan.steps):
        for name in plan._touched(step):
            begins.setdefault(name, i)
            ends[name] = i
    for _, name in plan.copies:
        if name in ends:
            ends[name] = len(plan.steps) - 1
    return [Life(n, at, plan._scratches.get(n) or _size(plan, n), begins[n], ends[n]) for n, at in plan.offsets.items()]
