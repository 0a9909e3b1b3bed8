"""The commands of ``nbconv``: a file each, with ``add(parser)`` and ``run(args) -> int``; see `nbconv.cli`."""
