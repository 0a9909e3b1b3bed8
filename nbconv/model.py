"""`load` and `Model`: a model and its plans, ready to run."""

from __future__ import annotations

import copy
import os
import threading
import weakref
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from nbconv.base.machine import thread_count
from nbconv.errors import ModelError
from nbconv.graph import Graph, Spec
from nbconv.lowering.weights import Weights
from nbconv.runtime.arguments import checked, copied, results_for
from nbconv.runtime.executor import Arenas, Ready
from nbconv.runtime.planned import Planned, target_of
from nbconv.runtime.ports import Port, decode, port

if TYPE_CHECKING:
    from concurrent.futures import Future

    from nbconv.converters.weights import Source
    from nbconv.edit.head import Head
    from nbconv.kernels.target import Target
    from nbconv.runtime.cuda.device import Device
    from nbconv.runtime.plan_cache import PlanCache
    from nbconv.vision.anchors import Anchors


def load(
    source: str | os.PathLike | bytes,
    *,
    threads: int | None = None,
    device: str = "cpu",
    tune: bool = False,
    deterministic: bool = False,
    flush_denormals: bool = True,
    exact: bool = False,
) -> Model:
    """The model of an ONNX or TFLite file, given by path or as its bytes.

    ``threads``: how many may work on a run (default: what affinity and the cgroup allow). ``device``: "cpu", or "cuda" or
    "cuda:1" for an NVIDIA GPU, with ":tf32" behind it for products by its tensor cores, of numbers rounded to TF32
    (docs/cuda.md); DeviceError where it is not there. ``tune``: on the CPU, for each new set of input shapes the candidate
    algorithms are timed once, and the choice is kept with the prepared model; the last bits of results then depend on what
    was chosen. ``deterministic``: never so, whatever ``tune`` says. ``flush_denormals``: on the CPU, kernels compute with
    0 in the place of denormal numbers (float32 below 1.2e-38), for which processors take up to 300 times as long; False
    keeps them. ``exact``: every sum is taken as its operator defines it, in training too; Winograd's filtering of 3×3
    convolutions, which is faster and rounds more, is not used. Raises OSError for a path that cannot be read, ModelError for
    what is no valid model, UnsupportedError (a ModelError) that names all operators, attributes and types that nbconv lacks,
    ImportError for a TFLite file where nbconv[tflite] is not installed. Weights stay views of the file while they can: do
    not change it.
    """
    from nbconv.converters.weights import Source

    model = Model.__new__(Model)
    model._set_device(device)
    model._tune = tune and not deterministic and device == "cpu"
    model._flush_denormals, model._exact = flush_denormals, exact
    model._open(
        Source(source), None if isinstance(source, (bytes, bytearray, memoryview)) else source, thread_count(threads)
    )
    return model


class Model(Planned):
    """A model to run. Any number of threads may run it at once; it can be pickled and copied, and works after a fork.

    ``threads``: how many may work on a run. ``device``: where it runs, "cpu" or a GPU as `load` takes it.
    ``flush_denormals``, ``exact``: as `load` takes them.
    """

    _tune = False

    def __init__(
        self,
        graph: Graph,
        *,
        threads: int | None = None,
        device: str = "cpu",
        flush_denormals: bool = True,
        exact: bool = False,
    ) -> None:
        self._set_device(device)
        self._flush_denormals, self._exact = flush_denormals, exact
        self._graph: Graph | None = graph
        self._source: Source | None = None
        self._plan_cache: PlanCache | None = None
        self._start(graph.name, graph.inputs, graph.outputs, graph.optional, thread_count(threads))

    def _open(self, source: Source, path: str | os.PathLike | None, threads: int) -> None:
        """A model in a file or in bytes: what an earlier process prepared is used, else the model is read now."""
        from nbconv.runtime.digests import digest
        from nbconv.runtime.plan_cache import PlanCache

        self._graph, self._source = None, source
        self._plan_cache = PlanCache(digest(path, source.data), self._target())
        card = self._plan_cache.card()
        if card is None:
            graph = self.graph
            self._start(graph.name, graph.inputs, graph.outputs, graph.optional, threads)
            if not source.external:
                self._plan_cache.keep_card(graph.name, graph.inputs, graph.outputs, graph.optional)
            else:
                self._plan_cache = None
            return
        ports = [decode(card[k]) for k in ("inputs", "outputs", "optional")]
        self._start(card["name"], *ports, threads)  # type: ignore[arg-type]

    def _set_device(self, name: str) -> None:
        self.device = name
        self._device: Device | None = None
        if name != "cpu":
            from nbconv.runtime.cuda import find

            self._device = find(name)

    def _target(self) -> Target:
        """What kernels are compiled for, and plans made for."""
        return target_of(self._device, self._exact)

    def _start(
        self,
        name: str,
        inputs: dict[str, Spec],
        outputs: dict[str, Spec | None],
        optional: dict[str, Spec],
        threads: int,
    ) -> None:
        self.name, self._inputs, self._outputs, self._optional, self.threads = name, inputs, outputs, optional, threads
        self.weights = Weights(None if self._source is None else self._source.drop)
        self._lock = threading.Lock()
        _models.add(self)
        self._forget()
        self._fed: dict[frozenset[str], Model] = {}
        self._arenas = self._new_arenas()
        self.frozen: frozenset[str] = frozenset()

    def _new_arenas(self) -> Arenas:
        if self._device is None:
            return Arenas()
        from nbconv.runtime.cuda.device import Block, Uploads

        self._uploads = Uploads(self._device)
        return Arenas(partial(Block, self._device))

    @property
    def graph(self) -> Graph:
        """The model as it was authored, in nbconv's inner opset."""
        if self._graph is None:
            from nbconv.converters.onnx import read

            assert self._source is not None
            self._graph = read(self._source)
        return self._graph

    def __getstate__(self) -> dict[str, Any]:
        return {
            "graph": self.graph, "threads": self.threads, "device": self.device, "frozen": self.frozen, "tune": self._tune,
            "flush_denormals": self._flush_denormals, "exact": self._exact,
        }  # fmt: skip

    def __setstate__(self, state: dict[str, Any]) -> None:
        told = {name: state[name] for name in ("threads", "device", "flush_denormals", "exact")}
        self.__init__(state["graph"], **told)
        self.frozen, self._tune = state["frozen"], state["tune"]

    def __copy__(self) -> Model:
        return self._with(self.graph)

    def __deepcopy__(self, memo: dict) -> Model:
        return self._with(copy.deepcopy(self.graph, memo))

    def _with(self, graph: Graph) -> Model:
        """Another model, set up as this one is."""
        model = self._like(graph, self.threads)
        model.frozen, model._tune = self.frozen, self._tune
        return model

    def _like(self, graph: Graph, threads: int) -> Model:
        """A model of another graph, on this one's device, that computes alike."""
        told = {"flush_denormals": self._flush_denormals, "exact": self._exact}
        return Model(graph, threads=threads, device=self.device, **told)

    def __repr__(self) -> str:
        ports = ", ".join(f"{p.name}{list(p.shape or ())}" for p in (*self.inputs, *self.outputs))
        return f"<nbconv.Model {self.name!r}: {ports}>"

    @property
    def flush_denormals(self) -> bool:
        """Whether its kernels take denormals for zeros, as `load` was told."""
        return self._flush_denormals

    @property
    def exact(self) -> bool:
        """As `load` took it."""
        return self._exact

    @property
    def inputs(self) -> list[Port]:
        """What `run` wants, in the model's order."""
        return [port(name, spec) for name, spec in self._inputs.items()]

    @property
    def optional_inputs(self) -> list[Port]:
        """Inputs that have a value in the model, which `run` takes another one for (see onnx's IR.md, "Graphs")."""
        return [port(name, spec) for name, spec in self._optional.items()]

    @property
    def outputs(self) -> list[Port]:
        return [port(name, spec) for name, spec in self._outputs.items()]

    def run(
        self,
        feeds: Mapping[str, Any],
        fetch: Sequence[str] | None = None,
        *,
        out: Mapping[str, np.ndarray] | None = None,
        threads: int | None = None,
    ) -> dict[str, np.ndarray]:
        """Run the model: ``{input name: array}`` to ``{output name: array}``.

        Inputs may have any stride. Floating-point arrays are cast where the model wants float32, float16 or bfloat16; any
        other difference of type is a ValueError, and so are unknown or missing names, ranks and sizes that do not fit.
        ``fetch`` names what to compute, outputs or any other value of the model (which is then not fused away). ``out`` maps
        names to C-contiguous arrays that take the results. Equal inputs give equal bits, for any number of threads. Strings
        come as arrays of Python objects, sequences as lists, and an optional value that is not there as None or not at all.
        What is fed of `optional_inputs` takes the place of the model's own value.
        """
        if self._optional and isinstance(feeds, Mapping) and not self._optional.keys().isdisjoint(feeds):
            return self._with_fed(feeds).run(feeds, fetch, out=out, threads=threads)
        count = self.threads if threads is None else thread_count(threads)
        given = self._feeds(feeds)
        names = tuple(self._outputs) if fetch is None else tuple(fetch)
        ready = self._ready(given, names)
        if not isinstance(ready, Ready):
            if fetch is not None:
                self._check_fetch(names)
            return copied(ready.run(given, names, count), out or {}, given)
        results = results_for(ready.program, out or {}, given)
        ready.run(self._arenas, given, results, count)
        return dict(zip(names, results, strict=True))

    def __call__(self, x: Any) -> np.ndarray:
        """The one output for the one input; ValueError when the model has more."""
        if len(self._inputs) != 1 or len(self._outputs) != 1:
            have = f"{len(self._inputs)} and {len(self._outputs)}"
            raise ValueError(f"a call takes one input and gives one output, this model has {have}: use run")
        return next(iter(self.run({next(iter(self._inputs)): x}).values()))

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

    # training (nbconv.train)

    def replace_head(
        self, classes: int, *, init: Any = "xavier_uniform", seed: int = 0, output: str = "", head: str = ""
    ) -> Head:
        """Puts a fresh classifier for ``classes`` classes in the place of the last Gemm, MatMul or (transposed) convolution
        before the output (``output`` names it where there are several), or of the node ``head``; what was found there.
        ``init``: a name or function of `nbconv.edit.initializers`; biases are 0. ValueError where there is no such layer,
        which names those to choose from."""
        from nbconv.edit.head import replace_head

        graph, found = replace_head(self.graph, classes, init, seed, output, head)
        self._replace(graph)
        return found

    def widen_head(self, layers: Any = 16, *, output: str = "", head: str = "") -> list[str]:
        """Lets the classifier read earlier layers, too: beside its own input the mean over space of what each of the last
        ``layers`` layers before it reads, or of the values (or first outputs of nodes) that ``layers`` names. The names of
        these values. Its weights for them begin as 0: outputs are what they were, and ``trainable="head"`` trains them.
        ``output`` and ``head``: as for `replace_head`. ValueError where the classifier is none of one vector a sample."""
        from nbconv.edit.widen import widened

        graph, found = widened(self.graph, layers, output, head)
        self._replace(graph)
        return found

    def add_detector(
        self,
        classes: int,
        shapes: Sequence[Any],
        *,
        size: tuple[int, int] | None = None,
        grids: Sequence[str] = (),
        seed: int = 0,
    ) -> Anchors:
        """Puts a fresh detector's head (SSD) on the model's features in the place of what stands behind them; its anchors,
        which make targets of boxes. The model's outputs are then "boxes" (n, anchors, 4), in pixels of the input, and
        "scores" (n, anchors, classes), which `nbconv.vision.best_boxes` reads; its loss is ``Trainer(model, "ssd")``.

        ``shapes``: (width, height), or one number, in pixels of the boxes to find, as `nbconv.vision.anchor_shapes` learns
        them. ``size``: of the pictures (height, width), where the model does not say it. ``grids``: names of values or nodes
        of features (n, channels, rows, columns); by default the last ones of 8, 16 and 32 pixels a cell, of which those are
        taken that fit the shapes. ValueError where there are none."""
        from nbconv.edit.detector import add_detector, find_grids, picture_size

        size = picture_size(self.graph, size)
        graph, anchors = add_detector(self.graph, classes, shapes, size, find_grids(self.graph, size, grids), seed)
        self._replace(graph)
        return anchors

    def freeze(self, until: str | None = None) -> list[str]:
        """Keeps a `Trainer` from changing the parameters that ``until`` (the name of a node, value or parameter) depends on,
        its own included; None frees all. The names of those frozen."""
        from nbconv.edit.selection import until as before

        self.frozen = frozenset() if until is None else before(self.graph, until)
        return sorted(self.frozen)

    def features(self, x: Any, layer: str = "", batch_size: int = 32) -> np.ndarray:
        """The value ``layer`` (or the first output of the node of that name) for the one input ``x``: float32 (n, …). By
        default it is what goes into the classifier."""
        if len(self._inputs) != 1:
            raise ValueError(f"the model has {len(self._inputs)} inputs: use run with fetch")
        if not layer:
            from nbconv.edit.head import find_head

            layer = find_head(self.graph).input
        elif layer not in self.graph.producers():
            layer = next((n.outputs[0] for n in self.graph.nodes if n.name == layer), layer)
        name, x = next(iter(self._inputs)), np.asarray(x)
        parts = [self.run({name: x[k : k + batch_size]}, [layer])[layer] for k in range(0, max(len(x), 1), batch_size)]
        return np.concatenate(parts)

    def save(self, path: str | os.PathLike, *, fold: bool = False) -> None:
        """Writes the model as ONNX: see `nbconv.edit.export.save`."""
        from nbconv.edit.export import save as write

        write(self.graph, path, self._source, fold)

    def _replace(self, graph: Graph) -> None:
        """Another graph, for the runs that begin from here on."""
        with self._lock:
            self._graph, self._plan_cache = graph, None
            self._inputs, self._outputs, self._optional = graph.inputs, graph.outputs, graph.optional
            self.weights, self._fed = Weights(), {}
            self._forget()
            self._arenas = self._new_arenas()

    def _with_fed(self, given: Mapping[str, Any]) -> Model:
        """The model with those of its optional inputs that are given as inputs."""
        names = frozenset(name for name in given if name in self._optional)
        with self._lock:
            model = self._fed.get(names)
            if model is None:
                model = self._fed[names] = self._with(self.graph.fed(n for n in self._optional if n in names))
                model.weights = self.weights
        return model

    def _feeds(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        return checked(self._inputs, feeds)


_models: weakref.WeakSet[Model] = weakref.WeakSet()


def _after_fork() -> None:
    """A child has none of the threads that may have held these locks."""
    for model in _models:
        model._lock = threading.Lock()
        model._staged, model._templates, model._fed = None, None, {}
        for key in [key for key, ready in model._plans.items() if not isinstance(ready, Ready)]:
            model._nbytes -= model._plans.pop(key).nbytes
        if model._device is None:
            model._arenas = Arenas()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def save(model: Model | Graph, path: str | os.PathLike) -> None:
    """Write the model as ONNX, whole or not at all: the authored graph, not what was fused. Raises ModelError where it
    cannot be written, OSError where the file cannot."""
    from nbconv.converters.onnx import save as write

    write(model.graph if isinstance(model, Model) else model, path)


__all__ = ["Model", "ModelError", "Port", "load", "save"]
