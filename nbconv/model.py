"""`load` and `Model`: a model and its plans, ready to run."""

from __future__ import annotations

import copy
import logging
import os
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from nbconv.errors import ModelError
from nbconv.graph import Graph, Spec
from nbconv.lowering import Weights

if TYPE_CHECKING:
    from concurrent.futures import Future

    from nbconv.plan import Plan
    from nbconv.runtime import Workspace

log = logging.getLogger("nbconv")
PLAN_BYTES = 256 << 20
"""Bytes that the plans a model keeps for other input shapes may take in all (the newest always stays)."""


class Port(NamedTuple):
    """An input or output as the model declares it: a dimension is an int, a name (symbolic) or None (unknown)."""

    name: str
    shape: tuple[int | str | None, ...] | None
    dtype: np.dtype | None


def load(source: str | os.PathLike | bytes, *, threads: int | None = None, device: str = "cpu") -> Model:
    """The model of an ONNX file, given by path or as its bytes.

    ``threads``: how many may work on a run (default: what affinity and the cgroup allow). ``device``: "cpu". Raises OSError
    for a path that cannot be read, ModelError for what is no valid model, UnsupportedError (a ModelError) that names all
    operators, attributes and types that nbconv lacks. Weights stay views of the file while they can: do not change it.
    """
    if device != "cpu":
        raise ValueError(f"device {device!r} is not available, wanted 'cpu'")
    from nbconv.converters.onnx import read

    return Model(read(source), threads=threads)


class Model:
    """A model to run. Any number of threads may run it at once; it can be pickled and copied, and works after a fork.

    ``graph`` is the model as it was authored (in nbconv's inner opset); ``threads`` how many may work on a run.
    """

    def __init__(self, graph: Graph, *, threads: int | None = None) -> None:
        from nbconv.runtime import available_threads

        if threads is not None and (not isinstance(threads, (int, np.integer)) or threads < 1):
            raise ValueError(f"threads is {threads!r}, wanted a positive integer or None")
        self.graph = graph
        self.threads = int(threads) if threads is not None else available_threads()
        self.weights = Weights()
        self._clear()

    def _clear(self) -> None:
        self._lock = threading.Lock()
        self._plans: OrderedDict[tuple, _Ready] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {"graph": self.graph, "threads": self.threads}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.graph, self.threads = state["graph"], state["threads"]
        self.weights = Weights()
        self._clear()

    def __copy__(self) -> Model:
        return Model(self.graph, threads=self.threads)

    def __deepcopy__(self, memo: dict) -> Model:
        return Model(copy.deepcopy(self.graph, memo), threads=self.threads)

    def __repr__(self) -> str:
        ports = ", ".join(f"{p.name}{list(p.shape or ())}" for p in (*self.inputs, *self.outputs))
        return f"<nbconv.Model {self.graph.name!r}: {ports}>"

    @property
    def inputs(self) -> list[Port]:
        return [Port(name, spec.shape, spec.dtype) for name, spec in self.graph.inputs.items()]

    @property
    def outputs(self) -> list[Port]:
        return [Port(n, s and s.shape, s and s.dtype) for n, s in self.graph.outputs.items()]

    def run(
        self,
        feeds: Mapping[str, Any],
        fetch: Sequence[str] | None = None,
        *,
        out: Mapping[str, np.ndarray] | None = None,
        threads: int | None = None,
    ) -> dict[str, np.ndarray]:
        """Run the model: ``{input name: array}`` to ``{output name: array}``.

        Inputs may have any stride. float64 and float16 arrays are cast where the model wants float32; any other difference
        of type is a ValueError, and so are unknown or missing names, ranks and sizes that do not fit. ``fetch`` names what
        to compute, outputs or any other value of the model (which is then not fused away). ``out`` maps names to
        C-contiguous arrays that take the results. Equal inputs give equal bits, for any number of threads.
        """
        given = self._feeds(feeds)
        names = tuple(self.graph.outputs) if fetch is None else tuple(fetch)
        ready = self._ready({n: (a.shape, a.dtype) for n, a in given.items()}, names)
        results = ready.results(out or {})
        space = ready.lease()
        try:
            space.run(given, results, self.threads if threads is None else threads)
        finally:
            ready.give_back(space)
        return dict(zip(names, results, strict=True))

    def __call__(self, x: Any) -> np.ndarray:
        """The one output for the one input; ValueError when the model has more."""
        if len(self.graph.inputs) != 1 or len(self.graph.outputs) != 1:
            raise ValueError(f"a call takes one input and gives one output, this model has {len(self.graph.inputs)} and {len(self.graph.outputs)}: use run")
        return next(iter(self.run({next(iter(self.graph.inputs)): x}).values()))

    def run_async(self, feeds: Mapping[str, Any], **options: Any) -> Future[dict[str, np.ndarray]]:
        """`run` on a thread of its own: a concurrent.futures.Future of its result. Do not write to the inputs meanwhile."""
        from concurrent.futures import Future

        future: Future[dict[str, np.ndarray]] = Future()

        def work() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(self.run(feeds, **options))
            except BaseException as error:  # whatever it is belongs to the one who asks for the result
                future.set_exception(error)

        threading.Thread(target=work, name="nbconv-run", daemon=True).start()
        return future

    def plan(self, shapes: Mapping[str, Sequence[int]], fetch: Sequence[str] | None = None) -> Plan:
        """The plan for inputs of these shapes (types as the model declares)."""
        given = {n: (tuple(int(d) for d in shapes[n]), s.dtype) for n, s in self.graph.inputs.items() if n in shapes}
        for name, spec in self.graph.inputs.items():
            if name not in given:
                raise ValueError(f"no shape given for input {name!r} {spec}")
            _fit(name, spec, given[name][0])
        return self._ready(given, tuple(self.graph.outputs) if fetch is None else tuple(fetch)).plan

    def _feeds(self, feeds: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """The inputs as C-contiguous arrays of the declared types, or a ValueError that says what does not fit."""
        if not isinstance(feeds, Mapping):
            raise ValueError(f"inputs come as a dict of arrays by name, got {type(feeds).__name__}")
        wanted = self.graph.inputs
        for name in feeds:
            if name not in wanted:
                raise ValueError(f"the model has no input {name!r}, its inputs are {', '.join(map(repr, wanted))}")
        found = {}
        for name, spec in wanted.items():
            if name not in feeds:
                raise ValueError(f"input {name!r} is missing, wanted {spec}")
            array = np.asarray(feeds[name])
            if array.dtype != spec.dtype:
                array = _cast(name, array, spec.dtype)
            _fit(name, spec, array.shape)
            found[name] = np.require(array, requirements=["C", "A"])
        self._agree({n: a.shape for n, a in found.items()})
        return found

    def _agree(self, shapes: dict[str, tuple[int, ...]]) -> None:
        """ValueError where one symbolic dimension has two sizes."""
        sizes: dict[str, tuple[int, str]] = {}
        for name, shape in shapes.items():
            for have, want in zip(shape, self.graph.inputs[name].shape, strict=True):
                if isinstance(want, str) and want != "?" and sizes.setdefault(want, (have, name))[0] != have:
                    raise ValueError(f"dimension {want!r} is {sizes[want][0]} in input {sizes[want][1]!r} and {have} in {name!r}")

    def _ready(self, given: Mapping[str, tuple[tuple[int, ...], np.dtype]], fetch: tuple[str, ...]) -> _Ready:
        key = (tuple((n, *v) for n, v in given.items()), fetch)
        with self._lock:
            ready = self._plans.get(key)
            if ready is None:
                self._check_fetch(fetch)
                from nbconv.kernels.target import host
                from nbconv.plan import Plan

                inputs = {n: Spec(shape, dtype) for n, (shape, dtype) in given.items()}
                ready = self._plans[key] = _Ready(Plan(self.graph, inputs, self.weights, fetch, host()))
                self._trim()
            self._plans.move_to_end(key)
            return ready

    def _check_fetch(self, fetch: tuple[str, ...]) -> None:
        known = {*self.graph.values(), *self.graph.inputs, *self.graph.constants}
        for name in fetch:
            if name not in known:
                raise ValueError(f"the model has no value {name!r}")
        if len(set(fetch)) < len(fetch):
            raise ValueError("fetch names a value twice")

    def _trim(self) -> None:
        """Forget the plans not used for longest while all together take more than `PLAN_BYTES`."""
        total = sum(r.plan.nbytes for r in self._plans.values())
        while total > PLAN_BYTES and len(self._plans) > 1:
            _, old = self._plans.popitem(last=False)
            total -= old.plan.nbytes


class _Ready:
    """A plan and the workspaces that wait for its next runs."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._spaces: list[Workspace] = []

    def lease(self) -> Workspace:
        try:
            return self._spaces.pop()
        except IndexError:
            from nbconv.runtime import Workspace

            return Workspace(self.plan)

    def give_back(self, space: Workspace) -> None:
        self._spaces.append(space)

    def results(self, out: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Arrays for what is fetched: the caller's, checked, or new ones."""
        for name in out:
            if name not in self.plan.fetch:
                raise ValueError(f"out names {name!r}, the results are {', '.join(map(repr, self.plan.fetch))}")
        found = []
        for name in self.plan.fetch:
            spec = self.plan.specs[name]
            array = out.get(name)
            if array is None:
                array = np.empty(spec.shape, spec.dtype)
            elif not isinstance(array, np.ndarray) or array.shape != spec.shape or array.dtype != spec.dtype:
                have = f"{array.dtype}{list(array.shape)}" if isinstance(array, np.ndarray) else type(array).__name__
                raise ValueError(f"out[{name!r}] is {have}, wanted {spec}")
            elif not array.flags.c_contiguous or not array.flags.writeable or not array.flags.aligned:
                raise ValueError(f"out[{name!r}] must be C-contiguous, aligned and writeable")
            found.append(array)
        return found


def _cast(name: str, array: np.ndarray, wanted: np.dtype) -> np.ndarray:
    if wanted == np.float32 and array.dtype in (np.float64, np.float16):
        return array.astype(np.float32)
    hint = ""
    if wanted == np.float32 and array.dtype.kind in "iub":
        hint = ": scale it as the model expects, e.g. x.astype(np.float32) / 255"
    raise ValueError(f"input {name!r} is {array.dtype}, wanted {wanted}{hint}")


def _fit(name: str, spec: Spec, shape: tuple[int, ...]) -> None:
    """ValueError unless an array of this shape is what the input wants."""
    if len(shape) != len(spec.shape):
        raise ValueError(f"input {name!r} has shape {list(shape)}, wanted {len(spec.shape)} dimensions: {spec}")
    for have, want in zip(shape, spec.shape, strict=True):
        if isinstance(want, int) and have != want:
            raise ValueError(f"input {name!r} has shape {list(shape)}, wanted {spec}")


def save(model: Model | Graph, path: str | os.PathLike) -> None:
    """Write the model as ONNX, whole or not at all: the authored graph, not what was fused. Raises ModelError where it
    cannot be written, OSError where the file cannot."""
    from nbconv.converters.onnx import save as write

    write(model.graph if isinstance(model, Model) else model, path)


__all__ = ["Model", "ModelError", "Port", "load", "save"]
