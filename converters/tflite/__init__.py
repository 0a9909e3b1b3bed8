"""TFLite models as ONNX: `model.convert`.

A file's first subgraph becomes nodes of ONNX, which nbconv's importer reads: so that every command takes a ``.tflite`` file,
and what is saved is ONNX. Inputs and outputs keep TFLite's shapes, (N, H, W, C) for images, and its element types.
"""
