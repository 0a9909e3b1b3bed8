"""Graphs: nodes, Specs, what an op is, the builder."""

from nbconv.graph.graph import *  # noqa: F403
from nbconv.graph.spec import *  # noqa: F403
