"""Where onnxruntime has its compiled half; here, other names of the same things."""
