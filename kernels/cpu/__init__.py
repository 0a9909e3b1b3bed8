"""CPU kernels.
Each file is a family and compiles to one library; files that begin with an underscore are shared by
all."""
