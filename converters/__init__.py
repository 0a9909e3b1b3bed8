"""Model files to and from `nbconv.graph.Graph`."""
