"""CUDA kernels, with the CPU kernels' names and arguments.

A warp is a vector: `W` is 32, a vector of the kernels' language is one float32 of each thread, and
a warp does a unit.
So a family that is written in that language is the CPU's very file, imported a second time as a
module of this package, where ``from ._simd import …`` finds the language for CUDA.
A file of the same name here takes its place: tiles of matrix products need shared memory, and
kernels that the CPU does element by element want a thread an element.
"""

from pathlib import Path

__path__ = [*__path__, str(Path(__file__).parent.parent / "cpu")]
