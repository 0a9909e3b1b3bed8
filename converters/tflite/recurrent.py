"""LSTM over a sequence."""

from __future__ import annotations

import numpy as np

from nbconv.converters.tflite.builder import Builder
from nbconv.converters.tflite.reader import Operator
from nbconv.errors import ModelError, UnsupportedError

GATES = (0, 3, 1, 2)
"""ONNX's order of gates (input, output, forget, cell) in TFLite's (input, forget, cell, output)."""


def sequence_lstm(to: Builder, node: Operator) -> None:
    o = node.options("UnidirectionalSequenceLSTMOptions")
    slots = [*node.inputs, *[-1] * (24 - len(node.inputs))]
    if any(t >= 0 for t in (*slots[16:18], *slots[20:24])):
        raise UnsupportedError("projections and layer normalisation are not supported")
    if o.FusedActivationFunction() != 4 or o.CellClip() > 0:
        raise UnsupportedError("an LSTM without tanh, or with a clipped cell, is not supported")
    if slots[1] < 0 or any(t < 0 for t in (*slots[1:9], *slots[12:16])):
        raise UnsupportedError("gates that are coupled, or without a bias, are not supported")
    for t in slots[18:20]:
        if t >= 0 and not to.tensors[t].variable:
            raise UnsupportedError("a state that is given is not supported: states are variables, 0 at first")
    w, r, b = ([_known(to, slots[first + gate]) for gate in GATES] for first in (1, 5, 12))
    hidden = r[0].shape[-1] if r[0].ndim == 2 else 0
    if any(v.shape != (hidden, w[0].shape[-1]) for v in w) or any(v.shape != (hidden, hidden) for v in r):
        raise ModelError(f"its weights have the shapes {[v.shape for v in w + r]}")
    if any(v.shape != (hidden,) for v in b):
        raise ModelError(f"its biases have the shapes {[v.shape for v in b]}")
    biases = np.concatenate([*b, np.zeros(4 * hidden, np.float32)])
    given = [to.constant(np.concatenate(v)[None], np.float32) for v in (w, r)] + [to.constant(biases[None], np.float32)]
    if slots[9] >= 0 or slots[10] >= 0:
        peepholes = [_known(to, slots[t]) for t in (9, 11, 10)]
        given += ["", "", "", to.constant(np.concatenate(peepholes)[None], np.float32)]
    x = node.inputs[0]
    if to.tensors[x].rank != 3:
        raise ModelError(f"its input has the shape {list(to.tensors[x].shape)}, wanted rank 3")
    major = bool(o.TimeMajor())
    made = to.add("LSTM", to.get(x, None if major else (1, 0, 2)), *given, hidden_size=hidden)
    made = to.add("Squeeze", made, to.integers([1]))
    to.put(node.outputs[0], made, None if major else (1, 0, 2))


def _known(to: Builder, t: int) -> np.ndarray:
    found = to.real(t) if t >= 0 else None
    if found is None:
        raise UnsupportedError("weights that are computed, or left out, are not supported")
    return found


RULES = {"UNIDIRECTIONAL_SEQUENCE_LSTM": sequence_lstm}
