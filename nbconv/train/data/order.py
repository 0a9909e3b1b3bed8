"""The order in which data is read, its batches, and a thread that reads ahead."""

from __future__ import annotations

import copy
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from nbconv.train.data.base import Batch, Data
from nbconv.train.targets import Weighted

if TYPE_CHECKING:
    from nbconv.train.augment import Augment

Balance = float | Callable[[int], float]


def order(data: Data, epoch: int, seed: int, shuffle: bool = True, balance: Balance = 0.0) -> np.ndarray:
    """The numbers of the samples of an epoch. ``balance`` b from 0 to 1, or a function of the epoch: each class has the
    share (1 - b) · its own + b / classes of the epoch (classes of few samples come more than once), spread so that every
    batch has about these shares."""
    rng = np.random.default_rng([seed, epoch, 0x0BDE])
    b = float(balance(epoch) if callable(balance) else balance)
    if not 0 <= b <= 1:
        raise ValueError(f"balance is {b}, wanted from 0 to 1")
    n = len(data)
    if not b:
        return rng.permutation(n) if shuffle else np.arange(n)
    groups = data.groups()
    if not groups:
        raise ValueError("balanced batches want one label a sample")
    places, chosen = [], []
    for group in groups:
        count = max(round((1 - b) * len(group) + b * n / len(groups)), 1)
        rounds = [rng.permutation(group) for _ in range(-(-count // len(group)))]
        chosen.append(np.concatenate(rounds)[:count])
        places.append((np.arange(count) + rng.random(count)) / count)
    return np.concatenate(chosen)[np.argsort(np.concatenate(places), kind="stable")]


def batches(
    data: Data,
    numbers: np.ndarray,
    batch_size: int,
    *,
    start: int = 0,
    augment: Augment | None = None,
    seed: int = 0,
    epoch: int = 0,
    classes: int = 0,
) -> Iterator[Batch]:
    """Batches of an epoch from number ``start`` on, augmented by what seed, epoch and place in the epoch decide."""
    for k in range(start, -(-len(numbers) // batch_size)):
        places = np.arange(k * batch_size, min((k + 1) * batch_size, len(numbers)))
        x, y = data.read(numbers[places])
        if augment is not None:
            if data.weights is not None and augment.mixup:
                raise ValueError("mixup and weights of samples exclude each other")
            x, y = augment(x, y, generators(seed, epoch, places), classes, kind=data.kind)
        yield data.ready(x), data.weighed(data.encoded(y), numbers[places])


def generators(seed: int, epoch: int, places: Iterable[int]) -> list[np.random.Generator]:
    """What is random about the samples at these places of an epoch."""
    return [np.random.default_rng([seed, epoch, int(p), 0xA06]) for p in places]


def augmented(
    pairs: Iterable[tuple[Any, Any]], augment: Augment, *, seed: int, epoch: int, classes: int, layout: str
) -> Iterator[Batch]:
    """Batches that someone else made, with pictures as the model takes them, augmented."""
    place = 0
    for x, y in pairs:
        x = np.asarray(x)
        places = range(place, place := place + len(x))
        if isinstance(y, Weighted):
            if augment.mixup:
                raise ValueError("mixup and weights of samples exclude each other")
            x, targets = augment(x, y.targets, generators(seed, epoch, places), classes, layout=layout)
            yield x, Weighted(targets, y.weights)
        else:
            yield augment(x, y, generators(seed, epoch, places), classes, layout=layout)


def class_weighted(data: Data, weights: Any) -> Data:
    """The data with each sample's weight times that of its class: "balanced", n / (classes · samples of the class), so that
    all classes count alike; a dict by number or name, 1 for those that it lacks; or one a class, by number."""
    labels = getattr(data, "labels", None)
    if labels is None or labels.ndim != 1 or labels.dtype.kind != "i":
        raise ValueError("class_weight wants one class a sample; for pixels say loss_options={'weights': …}")
    present, where, counts = np.unique(labels, return_inverse=True, return_counts=True)
    if isinstance(weights, str):
        if weights != "balanced":
            raise ValueError(f"class_weight is {weights!r}, wanted 'balanced', a dict, or one a class")
        found = len(labels) / (len(present) * counts)
    elif isinstance(weights, Mapping):
        names = {name: i for i, name in enumerate(data.classes)}
        unknown = [k for k in weights if k not in names and not (isinstance(k, (int, np.integer)) and k >= 0)]
        if unknown:
            raise ValueError(f"class_weight names {unknown[0]!r}, the classes are {', '.join(data.classes) or 'numbers'}")
        by_number = {names.get(k, k): v for k, v in weights.items()}
        found = np.array([by_number.get(int(c), 1.0) for c in present])
    else:
        given = np.asarray(weights, np.float64)
        if given.ndim != 1 or len(given) <= present[-1]:
            raise ValueError(f"class_weight has shape {list(given.shape)}, wanted one a class, {present[-1] + 1} or more")
        found = given[present]
    each = found[where].astype(np.float32)
    other = copy.copy(data)
    other.weights = Weighted(labels, each if data.weights is None else each * data.weights).weights
    return other


def prefetch(source: Iterator[Batch], depth: int = 2) -> Iterator[Batch]:
    """The same batches, read up to ``depth`` ahead on a thread. The thread ends with the iteration, however that ends."""
    line: queue.Queue[Any] = queue.Queue(depth)
    stop = threading.Event()

    def put(item: Any) -> bool:
        while not stop.is_set():
            try:
                line.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for item in source:
                if not put((item, None)):
                    return
            put((None, None))
        except BaseException as error:  # it belongs to the one who reads
            put((None, error))

    thread = threading.Thread(target=work, name="nbconv-data", daemon=True)
    thread.start()
    try:
        while True:
            item, error = line.get()
            if error is not None:
                raise error
            if item is None:
                return
            yield item
    finally:
        stop.set()
        thread.join()
