"""Programs run: on threads of this machine, on a GPU, from files that earlier processes left."""
