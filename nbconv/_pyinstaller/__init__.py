"""For PyInstaller, which finds this by the entry point ``hook-dirs``: what an application that uses nbconv must carry."""

from __future__ import annotations

import os


def get_hook_dirs() -> list[str]:
    """Where the hooks lie."""
    return [os.path.dirname(__file__)]
