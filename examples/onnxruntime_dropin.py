"""A program written for onnxruntime, with another import.

python examples/onnxruntime_dropin.py [MODEL.onnx]
"""

import sys

import numpy as np

import nbconv.ort as onnxruntime  # was: import onnxruntime
from nbconv.models import path


def main(argv: list[str]) -> None:
    file = argv[0] if argv else str(path("mtcnn_pnet"))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    feeds = {}
    for port in session.get_inputs():
        shape = [d if isinstance(d, int) else 1 if i == 0 else 64 for i, d in enumerate(port.shape)]
        feeds[port.name] = np.random.default_rng(0).random(shape, np.float32)
        print(f"input  {port.name}: {port.type} {shape}")
    names = [port.name for port in session.get_outputs()]
    for name, value in zip(names, session.run(names, feeds)):
        print(f"output {name}: {value.dtype} {list(value.shape)}")


if __name__ == "__main__":
    main(sys.argv[1:])
