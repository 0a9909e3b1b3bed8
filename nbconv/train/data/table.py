"""Tables that name pictures and say what they are: CSV files, pandas frames, columns."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nbconv.train.data.pictures import PICTURES, Pictures, shown
from nbconv.train.data.splits import Splits, named, only, split_of

IMAGE = ("path", "file", "image", "filename", "file_name", "filepath", "image_path", "image_id", "img", "picture", "id")
LABEL = ("label", "class", "target", "category", "labels", "class_name", "y")
SPLIT = ("split", "subset")
TRUTH = {"true": "1", "false": "0"}


class Table(NamedTuple):
    """Columns by name, of one length; where they come from, and where relative paths begin; the line of the first row (0:
    there are no lines)."""

    columns: dict[str, list[Any]]
    source: str
    folder: Path
    first: int

    def row(self, i: int) -> str:
        """How a row is called in messages."""
        return f"{self.source}, line {self.first + i}" if self.first else f"{self.source}, row {i}"

    def find(self, names: Sequence[str]) -> str | None:
        """The first column with one of these names, in any case."""
        lower = {name.strip().lower(): name for name in reversed(self.columns)}
        return next((lower[name] for name in names if name in lower), None)

    def need(self, name: str, argument: str) -> str:
        if name not in self.columns:
            raise ValueError(f"{self.source} has no column {name!r} ({argument}), it has {', '.join(self.columns)}")
        return name


def image_list(
    source: Any,
    *,
    image: str | None = None,
    label: str | Sequence[str] | None = None,
    folder: str | os.PathLike | None = None,
    split: str | None = None,
    delimiter: str | None = None,
    kind: str = "auto",
    **options: Any,
) -> Pictures:
    """Pictures that a table names: a CSV file in UTF-8, a pandas frame, or a dict of columns.

    ``image``: the column of paths, relative to ``folder`` (by default the file's own), with or without their ending.
    ``label``: the column of labels, or several. By default both are found by usual names (path, file, image, filename …;
    label, class, target, category …); of two columns, the second is the label, and a CSV file of two may have no header.
    One column of labels is text or integers, which are classes in the order of their names (of their numbers, where all
    are), or numbers that are not all integers, to regress. Several are 0 and 1: classes, where each row has one 1, else one
    yes or no a class, float32 (n, classes); or numbers to regress. ``kind`` "label" or "values" says which.
    ``split``: only rows whose column "split" says "train", "val" or "test"; `nbconv.image_splits` reads all.
    ``delimiter``: that of the file, by default the comma, or semicolon or tab where the first line has no comma. Other
    options are those of `Pictures`.
    """
    if kind not in ("auto", "label", "values"):
        raise ValueError(f"kind is {kind!r}, wanted 'auto', 'label' or 'values'")
    table = read_table(source, folder, delimiter, image is not None or label is not None or split is not None)
    paths, labels, classes, parts = _read(table, image, label, kind)
    numbers = np.arange(len(paths))
    if parts or split is not None:
        numbers = only(Path(table.source), parts, split, "image_list")
    found = "label" if classes else "values"
    return Pictures([paths[i] for i in numbers], labels[numbers], classes=classes, kind=found, **options)


def list_splits(source: Any, **options: Any) -> Splits:
    """The rows of each split of a table."""
    own = {name: options.pop(name) for name in ("image", "label", "folder", "delimiter", "kind") if name in options}
    table = read_table(source, own.get("folder"), own.get("delimiter"), True)
    parts = _splits(table)
    if not parts:
        raise ValueError(f"{table.source} has no column split that says train, val or test")
    return Splits({name: image_list(source, split=name, **own, **options) for name in parts})


def has_splits(path: Path) -> bool:
    """Whether a CSV file has a column that says so."""
    return bool(_splits(read_table(path, None, None, False)))


def read_table(source: Any, folder: Any, delimiter: str | None, header: bool) -> Table:
    """The columns of a file, a frame or a dict. ``header``: a file's first line is one, else it is where a cell is a usual
    name of a column of paths, or there are more than two columns."""
    if isinstance(source, (str, os.PathLike)):
        file = Path(source)
        rows = _rows(file, delimiter)
        header = header or len(rows[0]) != 2 or any(cell.strip().lower() in IMAGE for cell in rows[0])
        names = [cell.strip() for cell in rows[0]] if header else ["path", "label"]
        if len(set(names)) < len(names):
            raise ValueError(f"{file}: two columns of the first line have one name: {', '.join(names)}")
        rows = rows[1:] if header else rows
        if not rows:
            raise ValueError(f"{file} has no lines")
        columns = {name: [row[k].strip() for row in rows] for k, name in enumerate(names)}
        return Table(columns, str(file), Path(folder) if folder is not None else file.parent, 1 + header)
    names = list(source.columns) if hasattr(source, "columns") else list(source) if isinstance(source, Mapping) else None
    if names is None:
        raise ValueError(f"the table is {type(source).__name__}, wanted a CSV file, a pandas frame or a dict of columns")
    columns = {str(name): list(source[name]) for name in names}
    if len({len(values) for values in columns.values()}) != 1 or not next(iter(columns.values())):
        raise ValueError(f"the table's columns are not of one length above 0: {', '.join(columns)}")
    return Table(columns, "the table", Path(folder) if folder is not None else Path(), 0)


def _rows(file: Path, delimiter: str | None) -> list[list[str]]:
    try:
        with open(file, newline="", encoding="utf-8-sig") as f:
            if delimiter is None:
                first = f.readline()
                delimiter = next((d for d in ",;\t" if d in first), ",")
                f.seek(0)
            rows = [row for row in csv.reader(f, delimiter=delimiter) if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{file} is no CSV file in UTF-8: {error}") from None
    if not rows:
        raise ValueError(f"{file} has no lines")
    for i, row in enumerate(rows):
        if len(row) != len(rows[0]) or len(row) < 2:
            wanted = "two columns or more, as path,label" if len(rows[0]) < 2 else f"{len(rows[0])} as in the first"
            raise ValueError(f"{file}, line {i + 1}: {len(row)} columns, wanted {wanted}")
    return rows


def _read(
    table: Table, image: str | None, label: str | Sequence[str] | None, kind: str
) -> tuple[list[Any], np.ndarray, tuple[str, ...], dict[str, np.ndarray]]:
    """(pictures, targets, classes, the numbers of the rows of each split)."""
    parts = _splits(table)
    image = table.need(image, "image") if image is not None else table.find(IMAGE)
    if image is None:
        raise ValueError(f"{table.source} has the columns {', '.join(table.columns)}: say which names pictures, image=…")
    others = [n for n in table.columns if n != image and not (parts and n == table.find(SPLIT))]
    if label is None:
        found = table.find(LABEL)
        label = found if found is not None else others[0] if len(others) == 1 else others
        if isinstance(label, list) and not all(_binary(table.columns[n]) for n in label):
            raise ValueError(f"{table.source} has the columns {', '.join(table.columns)}: say which are labels, label=…")
    labels = [label] if isinstance(label, str) else list(label)
    if not labels:
        raise ValueError(f"{table.source} has no column of labels")
    for name in (table.need(n, "label") for n in labels):
        for i, value in enumerate(table.columns[name]):
            if value is None or value != value or value == "":
                raise ValueError(f"{table.row(i)}: {name} is empty")
    y, classes = _one(table, labels[0], kind) if isinstance(label, str) else _several(table, labels, kind)
    return [_picture(table, v) for v in table.columns[image]], y, classes, parts


def _splits(table: Table) -> dict[str, np.ndarray]:
    """The numbers of each split's rows; empty where no column says them for all rows."""
    name = table.find(SPLIT)
    if name is None or not all(isinstance(v, str) and split_of(v) for v in table.columns[name]):
        return {}
    values = table.columns[name]
    found = {v.strip().lower(): v for v in values}
    names = named(((v, v) for v in found), table.source)
    return {s: np.array([i for i, v in enumerate(values) if split_of(v) == s], np.int64) for s in names}


def _picture(table: Table, value: Any) -> Any:
    """A path, or what a table holds in its place."""
    if not isinstance(value, (str, os.PathLike)):
        return value
    path = table.folder / value
    if path.suffix.lower() in PICTURES:
        return path
    return next((p for end in PICTURES if (p := path.with_name(path.name + end)).exists()), path)


def _one(table: Table, name: str, kind: str) -> tuple[np.ndarray, tuple[str, ...]]:
    values = table.columns[name]
    texts = [str(v) for v in values]
    whole = all(t.lstrip("-").isdecimal() for t in texts)
    numbers = None if whole and kind != "values" else _floats(texts)
    if kind == "values" or (kind == "auto" and numbers is not None and not whole):
        if numbers is None:
            raise ValueError(f"{table.source}: {name} is not all numbers, which kind='values' wants")
        return numbers, ()
    names = sorted(set(texts), key=(int if whole else str))
    where = {text: i for i, text in enumerate(names)}
    return np.array([where[t] for t in texts], np.int64), tuple(names)


def _several(table: Table, names: list[str], kind: str) -> tuple[np.ndarray, tuple[str, ...]]:
    columns = []
    for name in names:
        numbers = _floats([str(v) for v in table.columns[name]])
        if numbers is None:
            wrong = next(v for v in table.columns[name] if _floats([str(v)]) is None)
            raise ValueError(f"{table.source}: {name} has {wrong!r}; several columns of labels want numbers")
        columns.append(numbers)
    y = np.stack(columns, axis=1)
    binary = bool(((y == 0) | (y == 1)).all())
    if kind == "values" or (kind == "auto" and not binary):
        return y, ()
    if not binary:
        raise ValueError(f"{table.source}: {shown(names)} are not all 0 and 1, which kind='label' wants")
    return (y.argmax(axis=1).astype(np.int64) if bool((y.sum(axis=1) == 1).all()) else y), tuple(names)


def _floats(texts: Sequence[str]) -> np.ndarray | None:
    try:
        found = np.array([float(TRUTH.get(t.strip().lower(), t)) for t in texts], np.float64)
    except ValueError:
        return None
    return found.astype(np.float32) if np.isfinite(found).all() else None


def _binary(values: Sequence[Any]) -> bool:
    return all(str(v).strip().lower() in ("0", "1", "0.0", "1.0", *TRUTH) for v in values)
