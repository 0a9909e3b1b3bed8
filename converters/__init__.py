"""Model files to and from `nbconv.graph.Graph`."""

from __future__ import annotations

from nbconv.base.root import check

check(__name__)
