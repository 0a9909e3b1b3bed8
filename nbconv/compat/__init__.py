"""Other engines' interfaces: onnxruntime's Python names, onnx's Backend."""
