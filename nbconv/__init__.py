"""nbconv: runs ONNX CNNs on kernels that Numba compiled."""
