"""Things that are kept while together they take no more than so many bytes; those not used for longest go first."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import Any


class Kept:
    """Things by key. Any number of threads may use it at once. The newest always stays, whatever it takes."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.nbytes = 0
        """bytes that all take"""
        self._found: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._found)

    def values(self) -> list[Any]:
        """All that is there, the newest last."""
        with self._lock:
            return [value for value, _ in self._found.values()]

    def get(self, key: Hashable) -> Any:
        """What is kept for the key, which counts as a use; None where there is nothing."""
        with self._lock:
            found = self._found.get(key)
            if found is None:
                return None
            self._found.move_to_end(key)
            return found[0]

    def keep(self, key: Hashable, value: Any, nbytes: int) -> None:
        """Keep a value, which takes so many bytes."""
        with self._lock:
            old = self._found.pop(key, None)
            self._found[key] = value, nbytes
            self.nbytes += nbytes - (old[1] if old else 0)
            while self.nbytes > self.limit and len(self._found) > 1:
                _, (_, gone) = self._found.popitem(last=False)
                self.nbytes -= gone
