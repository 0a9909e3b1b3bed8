"""What training reads: arrays, .npz files, folders of pictures, CSV lists, or any iterable of batches; the order in which it
is read, and a thread that reads ahead."""

from __future__ import annotations

import csv
import os
import queue
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nbconv.train.targets import Targets

if TYPE_CHECKING:
    from nbconv.train.augment import Augment

Batch = tuple[np.ndarray, np.ndarray]
PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")


class Data:
    """Samples that can be asked for by their numbers. ``labels``: all targets, (n, …); ``classes``: their names, if known.
    `raw` gives samples as float32 (n, c, h, w), `ready` what the model takes of them: (x - mean) / std, as (n, h, w, c)
    where ``layout`` is "NHWC"."""

    labels: np.ndarray
    classes: tuple[str, ...] = ()
    mean: np.ndarray | float = 0.0
    std: np.ndarray | float = 1.0
    layout: str = "NCHW"

    def __len__(self) -> int:
        return len(self.labels)

    def raw(self, numbers: np.ndarray) -> np.ndarray:
        raise NotImplementedError

    def ready(self, x: np.ndarray) -> np.ndarray:
        """The model's input, of what `raw` gave."""
        if np.ndim(self.mean) == 0 and np.ndim(self.std) == 0 and self.mean == 0 and self.std == 1:
            return np.ascontiguousarray(self._laid(x), np.float32)
        for name, value in (("mean", self.mean), ("std", self.std)):
            if np.ndim(x) > 1 and np.size(value) not in (1, np.shape(x)[1]):
                raise ValueError(f"{name} has {np.size(value)} numbers, the samples have {np.shape(x)[1]} channels")
        return np.ascontiguousarray(self._laid((x - _planes(self.mean)) / _planes(self.std)), np.float32)

    def _laid(self, x: np.ndarray) -> np.ndarray:
        return x.transpose(0, 2, 3, 1) if self.layout == "NHWC" and np.ndim(x) == 4 else x

    def batch(self, numbers: np.ndarray) -> Batch:
        """Samples as the model takes them, and their targets."""
        return self.ready(self.raw(numbers)), self.labels[numbers]

    def part(self, numbers: Sequence[int] | np.ndarray) -> Part:
        """Only these samples."""
        return Part(self, np.asarray(numbers, np.int64))

    def split(self, share: float, seed: int = 0) -> tuple[Part, Part]:
        """(training, held out): ``share`` of each class's samples, at least one where it has two, is held out."""
        if not 0 < share < 1:
            raise ValueError(f"the share to hold out is {share}, wanted one between 0 and 1")
        rng, held = np.random.default_rng([seed, 0x5711]), np.zeros(len(self), bool)
        groups = [np.flatnonzero(self.labels == c) for c in np.unique(self.labels)] if self.labels.ndim == 1 else []
        for group in groups or [np.arange(len(self))]:
            count = min(max(round(share * len(group)), 1), len(group) - 1)
            held[rng.permutation(group)[:count]] = True
        return self.part(np.flatnonzero(~held)), self.part(np.flatnonzero(held))


def _scale(mean: Any, std: Any) -> tuple[Any, Any]:
    """Both, if samples can be normalised by them."""
    if not np.isfinite(np.asarray(mean, np.float64)).all():
        raise ValueError(f"mean is {mean}, wanted finite numbers")
    if not np.isfinite(np.asarray(std, np.float64)).all() or not np.all(std):
        raise ValueError(f"std is {std}, wanted finite numbers that are not 0")
    return mean, std


def _planes(v: np.ndarray | float) -> np.ndarray:
    v = np.asarray(v, np.float32)
    return v if v.ndim == 0 else v.reshape(1, -1, 1, 1)


class Part(Data):
    """Some samples of other data."""

    def __init__(self, whole: Data, numbers: np.ndarray) -> None:
        self.whole, self.numbers = whole, numbers
        self.labels, self.classes = whole.labels[numbers], whole.classes

    def raw(self, numbers: np.ndarray) -> np.ndarray:
        return self.whole.raw(self.numbers[numbers])

    def ready(self, x: np.ndarray) -> np.ndarray:
        return self.whole.ready(x)


class Arrays(Data):
    """Samples in arrays. ``x``: (n, c, h, w) or whatever the model takes, float32; or pictures as uint8, (n, h, w),
    (n, h, w, 1) or (n, h, w, 3). ``y``: targets, (n, …). ``size`` (h, w): pictures are resized to it (bilinear) as they are
    read. ``mean`` and ``std``: numbers, or one a channel: the model gets (x - mean) / std. ``channels``: 3 repeats grey.
    ``layout``: "NHWC" for a model whose pictures have their channels last, as arrays of float32 have them then, too."""

    def __init__(
        self,
        x: Any,
        y: Any,
        *,
        size: tuple[int, int] | None = None,
        mean: Any = 0.0,
        std: Any = 1.0,
        channels: int | None = None,
        classes: Sequence[str] = (),
        layout: str = "NCHW",
    ) -> None:
        self.x, self.labels = np.asarray(x), targets(y)
        if len(self.x) != len(self.labels):
            raise ValueError(f"{len(self.x)} samples and {len(self.labels)} targets")
        if not len(self.x):
            raise ValueError("there are no samples")
        self.pictures = self.x.dtype == np.uint8 and (self.x.ndim == 3 or (self.x.ndim == 4 and self.x.shape[3] in (1, 3)))
        self.size, self.channels, self.classes, self.layout = size, channels, tuple(map(str, classes)), layout
        self.mean, self.std = _scale(mean, std)

    def raw(self, numbers: np.ndarray) -> np.ndarray:
        x = self.x[numbers]
        if self.pictures or (self.layout == "NHWC" and x.ndim == 4):
            x = x[:, None] if x.ndim == 3 else x.transpose(0, 3, 1, 2)
        x = np.asarray(x, np.float32)
        if self.channels and x.ndim == 4 and x.shape[1] == 1 and self.channels > 1:
            x = np.repeat(x, self.channels, axis=1)
        if self.size and x.shape[2:] != tuple(self.size):
            from nbconv.train.augment import resized

            x = resized(x, self.size)
        return x


class Pictures(Data):
    """Picture files, decoded as they are read; other arguments are `nbconv.image.load_image`'s. ``layout``: the model's."""

    def __init__(
        self,
        paths: Sequence[os.PathLike | str],
        y: Any,
        *,
        size: tuple[int, int],
        mean: Any = 0.0,
        std: Any = 255.0,
        channels: int = 3,
        resize: str = "crop",
        classes: Sequence[str] = (),
        layout: str = "NCHW",
    ) -> None:
        self.paths, self.labels = list(paths), targets(y)
        if len(self.paths) != len(self.labels):
            raise ValueError(f"{len(self.paths)} pictures and {len(self.labels)} targets")
        self.size, self.channels, self.resize, self.layout = size, channels, resize, layout
        self.mean, self.std = _scale(mean, std)
        self.classes = tuple(map(str, classes))

    def raw(self, numbers: np.ndarray) -> np.ndarray:
        from nbconv.base.image import load_image

        options: dict[str, Any] = {"mean": 0.0, "std": 1.0, "channels": self.channels, "resize": self.resize}
        return np.concatenate([load_image(self.paths[i], self.size, **options) for i in numbers])


def targets(y: Any) -> Any:
    """Integer labels as int64, others as float32; a dict of them by output as `Targets`."""
    if isinstance(y, (Mapping, Targets)):
        arrays = y.arrays if isinstance(y, Targets) else y
        return Targets({name: targets(a) for name, a in arrays.items()})
    y = np.asarray(y)
    if y.dtype.kind in "iub":
        return y.astype(np.int64)
    if y.dtype.kind != "f":
        raise ValueError(f"targets are {y.dtype}, wanted integers (labels) or floats")
    return y.astype(np.float32)


def image_folder(folder: str | os.PathLike, *, size: tuple[int, int], **options: Any) -> Pictures:
    """A folder whose sub-folders are classes, in the order of their names. ValueError for a folder without sub-folders, and
    one that names classes without pictures."""
    root = Path(folder)
    names = sorted(p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    if len(names) < 2:
        raise ValueError(f"{root} has {len(names)} sub-folders, wanted one for each of two classes or more")
    found = [sorted(p for p in (root / n).rglob("*") if p.suffix.lower() in PICTURES) for n in names]
    empty = [n for n, files in zip(names, found) if not files]
    if empty:
        raise ValueError(f"{root}: no pictures in {', '.join(empty)} (wanted {', '.join(PICTURES)})")
    labels = np.repeat(np.arange(len(names)), [len(files) for files in found])
    return Pictures([p for files in found for p in files], labels, size=size, classes=names, **options)


def image_list(path: str | os.PathLike, *, size: tuple[int, int], **options: Any) -> Pictures:
    """A CSV file of ``path,label`` lines, paths relative to it; a first line "path,label" is skipped. Labels are any text:
    classes are in the order of their names (of their numbers, where all are)."""
    file = Path(path)
    try:
        with open(file, newline="", encoding="utf-8-sig") as f:
            rows = [row for row in csv.reader(f) if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{file} is no CSV file in UTF-8: {error}") from None
    for i, row in enumerate(rows):
        if len(row) != 2:
            raise ValueError(f"{file}, line {i + 1}: {len(row)} columns, wanted path,label")
    if rows and rows[0][0].strip().lower() in ("path", "file", "image", "filename"):
        rows = rows[1:]
    if not rows:
        raise ValueError(f"{file} has no lines")
    texts = [row[1].strip() for row in rows]
    names = sorted(set(texts), key=(int if all(t.lstrip("-").isdigit() for t in texts) else str))
    where = {name: i for i, name in enumerate(names)}
    paths = [file.parent / row[0] for row in rows]
    return Pictures(paths, [where[t] for t in texts], size=size, classes=names, **options)


def load_npz(path: str | os.PathLike, **options: Any) -> Arrays:
    """An .npz file with arrays ``x`` and ``y`` and, if it likes, names of ``classes``; options are those of `Arrays`."""
    try:
        found = np.load(path, allow_pickle=False)
        arrays = {name: found[name] for name in ("x", "y", "classes") if name in found.files}
    except (ValueError, EOFError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
        why = "an array is of objects" if "Object arrays" in str(error) else "it is damaged, or another kind of file"
        raise ValueError(f"{path} is no .npz file of numbers: {why}") from None
    missing = [name for name in ("x", "y") if name not in arrays]
    if missing:
        raise ValueError(f"{path} lacks {' and '.join(missing)}, it has {', '.join(found.files)}")
    _scale(options.get("mean", 0.0), options.get("std", 1.0))  # the caller's error, not the file's
    try:
        return Arrays(arrays["x"], arrays["y"], **{"classes": [str(v) for v in arrays.get("classes", ())], **options})
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def as_data(given: Any) -> Data | None:
    """Data from (x, y) or Data; None for another iterable, which yields batches itself."""
    if isinstance(given, Data):
        return given
    if isinstance(given, tuple) and len(given) == 2:
        return Arrays(*given)
    if isinstance(given, Iterable):
        return None
    raise ValueError(f"data is {type(given).__name__}, wanted (x, y), Data or an iterable of batches")


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
    if data.labels.ndim != 1:
        raise ValueError("balanced batches want one label a sample")
    groups = [np.flatnonzero(data.labels == c) for c in np.unique(data.labels)]
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
        chosen = numbers[places]
        x, y = data.raw(chosen), data.labels[chosen]
        if augment is not None:
            x, y = augment(x, y, [np.random.default_rng([seed, epoch, int(p), 0xA06]) for p in places], classes)
        yield data.ready(x), y


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
