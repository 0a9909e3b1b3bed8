"""Options that a file may give, too: what the command line says comes first, then the file, then the defaults."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any, NamedTuple

MOST = 1 << 20
"""Bytes of a file of options."""


class Option(NamedTuple):
    """What an option takes: ``read`` makes its value of text (None: a flag)."""

    read: Any
    default: Any
    choices: tuple[Any, ...] | None = None


class Options:
    """A command's options by name, as they are added to its parser."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self.parser = parser
        self.table: dict[str, Option] = {}
        parser.set_defaults(options=self)

    def add(self, *flags: str, default: Any = None, group: Any = None, **settings: Any) -> None:
        """As argparse's ``add_argument``; the default is not in the namespace, but what `chosen` gives."""
        flag = settings.get("action") == "store_true"
        action = (group or self.parser).add_argument(*flags, default=None, **settings)
        read = None if flag else settings.get("type", str)
        self.table[action.dest] = Option(read, default, settings.get("choices"))

    def chosen(self, args: argparse.Namespace, config: str | None) -> argparse.Namespace:
        """The values of all options. ValueError for a file that has others, or values that they do not take."""
        told = {} if config is None else self._read(config)
        for name, option in self.table.items():
            if getattr(args, name, None) is None:
                setattr(args, name, told.get(name, option.default))
        return args

    def _read(self, path: str) -> dict[str, Any]:
        found = {}
        for key, value in load_toml(path).items():
            name = key.replace("-", "_")
            if name not in self.table:
                raise ValueError(f"{path}: there is no option {key!r}, there are {', '.join(self.table)}")
            found[name] = _value(f"{path}: {key}", value, self.table[name])
        return found


def load_toml(path: str) -> Mapping[str, Any]:
    """A TOML file. ValueError for what is none, ImportError where Python has no reader of them."""
    try:
        import tomllib  # pyright: ignore[reportMissingImports]
    except ImportError:  # Python 3.10
        try:
            import tomli as tomllib  # pyright: ignore[reportMissingImports]
        except ImportError:
            raise ImportError("--config wants Python 3.11 or newer, or tomli: pip install tomli") from None
    with open(path, "rb") as file:
        content = file.read(MOST + 1)
    if len(content) > MOST:
        raise ValueError(f"{path} is larger than {MOST >> 20} MiB: is it a TOML file of options?")
    try:
        return tomllib.loads(content.decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is no TOML file: {error}") from None


def _value(where: str, value: Any, option: Option) -> Any:
    if option.read is None:
        if not isinstance(value, bool):
            raise ValueError(f"{where} is {value!r}, wanted true or false")
        return value or None
    if isinstance(value, (bool, dict)):
        raise ValueError(f"{where} is {value!r}, wanted what the option takes")
    text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
    try:
        found = option.read(text)
    except (argparse.ArgumentTypeError, ValueError) as error:
        raise ValueError(f"{where}: {error}") from None
    if option.choices is not None and found not in option.choices:
        raise ValueError(f"{where} is {text!r}, wanted one of {', '.join(map(str, option.choices))}")
    return found
