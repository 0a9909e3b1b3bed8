"""Data that comes in parts to train, to validate and to test on."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from nbconv.train.data.base import Data

NAMES = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val", "test": "test",
    "testing": "test",
}  # fmt: skip
"""What splits are called, and which they are."""


class Splits(dict[str, Data]):
    """Data by the name of its part: "train", and "val" and "test" where there are. ``held``: what a training is watched on,
    the validation part, or the test part where there is no other; ``last``: what its result is told of."""

    @property
    def held(self) -> Data | None:
        return self.get("val", self.get("test"))

    @property
    def last(self) -> Data | None:
        return self.get("test", self.get("val"))


def split_of(text: str) -> str | None:
    """Which split is called so."""
    return NAMES.get(text.strip().lower())


def named(found: Iterable[tuple[str, Any]], where: Any) -> dict[str, Any]:
    """Things by the splits that their names say. ValueError where two say one."""
    parts: dict[str, Any] = {}
    for name, value in found:
        split = split_of(name)
        if split is None:
            continue
        if split in parts:
            raise ValueError(f"{where} has two parts for {split}")
        parts[split] = value
    return {name: parts[name] for name in ("train", "val", "test") if name in parts}


def split_folders(root: Path) -> dict[str, Path]:
    """The splits of a folder: those of train/, val/ (valid, validation, dev) and test/ that it has, where train/ has
    sub-folders; empty where the sub-folders of ``root`` are classes themselves. A lone train/ beside others is a class.
    ValueError for what may be either."""
    folders = [p for p in sorted(root.iterdir()) if p.is_dir() and not p.name.startswith((".", "__MACOSX"))]
    parts = named(((p.name, p) for p in folders), root)
    others = [p.name for p in folders if split_of(p.name) is None]
    if "train" not in parts or (len(parts) == 1 and others):
        return {}
    if not any(p.is_dir() and not p.name.startswith(".") for p in parts["train"].iterdir()):
        if others:
            return {}
        raise ValueError(f"{root} looks like splits, but {parts['train'].name}/ has no sub-folders, one a class")
    return parts


def only(root: Path, parts: dict[str, Any], split: str | None, caller: str) -> Any:
    """The part that was asked for."""
    if not parts:
        raise ValueError(f"split is {split!r}, but {root} has no splits")
    if split is None:
        raise ValueError(f"{root} has the splits {', '.join(parts)}: say which, {caller}(…, split='train')")
    wanted = split_of(split)
    if wanted not in parts:
        raise ValueError(f"split is {split!r}, {root} has {', '.join(parts)}")
    return parts[wanted]
