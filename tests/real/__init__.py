"""Real networks against onnxruntime: graphs as PyTorch exported them, and models found by name on PyPI."""
