"""Graphs: nodes, Specs, the builder, shape inference."""

from nbconv.graph.graph import *  # noqa: F403
