"""Σ|terms| of each output element, by which the error of a float32 kernel is judged: c·ε·Σ|terms|. A row an op; what sums
nothing has none: there it is the answer's size."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any, NamedTuple

import numpy as np

from nbconv.ops.standardize import standardize


class Call(NamedTuple):
    """One call of an op, in float64."""

    op: Any
    x: tuple
    """its inputs"""
    size: tuple
    """the magnitudes of those that are float64"""
    y: np.ndarray
    """the answer"""
    field: dict[str, Any]
    """the op's attributes"""


def terms(op: Any, x: tuple, y: np.ndarray) -> Any:
    """Σ|terms| of each element: one array, or one an output."""
    size = tuple(np.abs(v) if v is not None and v.dtype == np.float64 else v for v in x)
    field = {**op.fields, **op.attributes()}
    if op.type not in TERMS:
        return np.abs(y)
    return TERMS[op.type](Call(op, x, size, y, field))


def _linear(c: Call) -> Any:
    """The same op on magnitudes: of its scalars, too."""
    scalars = {name: abs(c.field[name]) for name in ("alpha", "beta") if name in c.field}
    return type(c.op)(**{**c.op.attributes(), **scalars}).reference(*c.size)


def _resize(c: Call) -> Any:
    """The same weights, but positive."""
    op = type(c.op)(**c.op.attributes())
    op.weights = lambda axis: (lambda cells, weights: (cells, np.abs(weights)))(*c.op.weights(axis))
    return np.abs(op.reference(*c.size))


def _sampled(c: Call) -> np.ndarray:
    """Places round, too: by how much what they read changes within a few cells."""
    x, size = c.size[-2], 4 + max(c.x[-1].shape[1:] + c.x[-2].shape[2:])
    if c.op.type == "GridSampleGrad":
        over = (0, *range(2, x.ndim))
        return 4 * size * x.max(axis=over, initial=0).reshape(1, -1, *[1] * (x.ndim - 2)) * np.ones(c.y.shape)
    greatest = x.reshape(*x.shape[:2], -1).max(axis=2, initial=0)
    if c.op.type == "GridSample":
        return 4 * size * greatest.reshape(*greatest.shape, *[1] * (x.ndim - 2)) * np.ones(c.y.shape)
    return 4 * size * size * (c.size[0].sum(axis=1) * greatest.max())[..., None] * np.ones(c.y.shape)


def _deformed(c: Call) -> np.ndarray:
    """Places round, too: by how much what they read changes within a few cells."""
    x, w, mask = c.size[0], c.size[1], (*c.size, None, None)[4]
    most = x.max() * (1 if mask is None else mask.max()) * (4 + max(c.x[0].shape[2:]) + c.size[2].max())
    return most * w.reshape(len(w), -1).sum(axis=1).reshape(-1, *[1] * (x.ndim - 2)) * np.ones(c.y.shape)


def _samples(c: Call) -> Any:
    """Of what a deformable convolution reads, and of its gradients: as `_deformed`."""
    x, offset, mask = (*c.size, None, None)[c.op.image : c.op.image + 3]
    far, weigh = 4 + max(x.shape[2:]) + offset.max(), 1 if mask is None else mask.max()
    if c.op.type == "DeformColumns":
        return far * weigh * x.max() * np.ones(c.y.shape)
    dy = c.size[0]
    dx, doffset, dmask = c.op.reference(np.ones_like(c.x[0]), *c.x[1:3])
    seen = 4 * far * x.shape[1] * dy.max() * x.max()
    return far * weigh * dy.max() * (1 + dx), seen * weigh * np.ones(doffset.shape), seen * np.ones(dmask.shape)


def _region(c: Call) -> np.ndarray:
    """Places round, too: by how much what they read changes within a few cells."""
    most = (4 + max(c.size[-3].shape[2:]) + np.nan_to_num(c.size[-2]).max(initial=0)) * c.size[0].max(initial=0)
    return most * (1 if c.op.type == "RoiAlign" else c.x[0].shape[2] * c.x[0].shape[3]) * np.ones(c.y.shape)


def _standard(c: Call) -> np.ndarray:
    """Of what standardises rows: the mean takes from each element, and the deviation is a sum, too."""
    op, x, y = c.op, c.x, c.y
    shape, lead = x[0].shape, {"InstanceNormalization": 2, "LayerNormalization": getattr(op, "axis", 0) % x[0].ndim}
    if x[0].size == 0:
        return np.zeros(y.shape)
    groups = shape[0] * getattr(op, "num_groups", 1)
    rows = getattr(op, "rows", groups if op.type == "GroupNormalization" else prod(shape[: lead.get(op.type, 1)]))
    flat = np.abs(x[0]).reshape(rows, -1)
    if y.shape != shape:
        return np.maximum(np.abs(y), flat.mean(axis=1).reshape(y.shape))
    s, _, inverse = standardize(x[0].reshape(rows, -1), (1,), op.epsilon)
    size = ((flat + flat.mean(axis=1, keepdims=True)) * inverse + np.abs(s)).reshape(shape)
    if len(x) == 1:
        return size
    scale, shift = (np.zeros(1) if v is None else np.abs(v) for v in (*x[1:], None)[:2])
    if op.type != "LayerNormalization":
        scale, shift = (v.reshape(-1, *[1] * (len(shape) - 2)) for v in (scale, shift))
    return size * scale + shift


def _standardize_grad(c: Call) -> np.ndarray:
    s, _, inverse = standardize(c.x[1].reshape(c.op.rows, -1), (1,), c.op.epsilon)
    d, s = c.size[0].reshape(s.shape), np.abs(s)
    whole = d + d.mean(axis=1, keepdims=True) + (1 + s) * (d * (1 + s)).mean(axis=1, keepdims=True)
    return ((1 + inverse * c.size[1].reshape(s.shape).max(axis=1, keepdims=True)) * inverse * whole).reshape(c.y.shape)


def _batch_norm(c: Call) -> Any:
    mean, var = c.size[3], c.x[4]
    if c.field["training_mode"]:
        over = (0, *range(2, c.x[0].ndim))
        mean, var = c.size[0].mean(axis=over), c.x[0].var(axis=over)
    spread = [np.reshape(v, (-1, *[1] * (c.x[0].ndim - 2))) for v in (*c.size[1:3], mean, var)]
    factor = spread[0] / np.sqrt(spread[3] + c.field["epsilon"])
    first, m = (c.size[0] + spread[2]) * factor + spread[1], c.field["momentum"]
    running = c.size[3] * m + mean * (1 - m), c.x[4] * m + 4 * var * (1 - m)
    return (first, *running, mean, 4 * var) if c.field["training_mode"] else first


def _batch_norm_grad_scale(c: Call) -> tuple[np.ndarray, ...]:
    dy = c.size[0] if len(c.x) < 5 else np.where(c.x[4] <= 0, 0, c.size[0])
    over, mean = (0, *range(2, dy.ndim)), c.size[2].reshape(-1, *[1] * (dy.ndim - 2))
    along = (dy * (c.size[1] + mean)).sum(axis=over)
    return along / np.sqrt(c.x[3] + c.field["epsilon"]), dy.sum(axis=over)


def _batch_norm_grad_input(c: Call) -> np.ndarray:
    given = (*c.size[2:4], c.x[4], *c.size[5:7])
    scale, mean, var, dscale, db = (v.reshape(-1, *[1] * (c.y.ndim - 2)) for v in given)
    n, inverse = c.field["count"] or c.y.size // c.y.shape[1], 1 / np.sqrt(var + c.field["epsilon"])
    return scale * inverse * (c.size[0] + db / n + (c.size[1] + mean) * inverse * dscale / n)


def _mean_variance(c: Call) -> np.ndarray:
    middle, axes = c.size[0].mean(axis=c.op.axes, keepdims=True), c.op.axes
    return (c.size[0] + middle) / (c.x[0].std(axis=axes, keepdims=True) + 1e-9) * (1 + np.abs(c.y))


def _log_softmax_grad(c: Call) -> np.ndarray:
    spread = (1 + c.size[1]) * np.exp(c.x[1])
    return c.size[0] + spread * c.size[0].sum(axis=c.field["axis"], keepdims=True)


def _loss(c: Call) -> np.ndarray:
    if c.y.shape == c.x[0].shape:  # log_prob
        return 1 + c.size[0] + c.size[0].max(axis=1, keepdims=True)
    _, share = c.op.shares(c.x[0].shape[1], c.x[1], (*c.x, None)[2], c.x[0].dtype)
    each = (1 + c.size[0].max(axis=1)) * share
    return each if c.y.shape else each.sum() / (share.sum() if c.op.reduction == "mean" else 1)


def _loss_grad(c: Call) -> np.ndarray:
    _, share = c.op.shares(c.y.shape[1], c.x[2], (*c.x, None)[3], c.x[1].dtype)
    return (1 + c.size[1]) * np.abs(c.op.factors(c.size[0], share))[:, None]


def _ctc(c: Call) -> np.ndarray:
    """An error goes on from step to step."""
    *dy, scores, labels = c.x[: 2 + c.op.place]
    steps = scores.shape[0 if c.op.time_major else 1]
    share = c.op.share(c.op.counts(scores.shape[2], labels), scores.dtype) * (np.abs(dy[0]) if dy else 1)
    each = steps * (2 + 2 * np.nan_to_num(np.abs(scores)).max(initial=0)) * share
    return (each[:, None] if c.op.time_major else each[:, None, None]) if dy else each if c.y.shape else each.sum()


def _recurrent(c: Call) -> tuple[np.ndarray, ...]:
    """An error goes on from step to step, with the state: as many steps as there are, of the size of the greatest result,
    or, where activations limit that, of 1."""
    found, least = c.op.reference(*c.x), 0.0 if c.op.domain else 1.0
    return tuple(np.full(v.shape, len(c.x[0]) * np.abs(v).max(initial=least)) for v in found)


def _greatest(c: Call) -> np.ndarray:
    return c.x[0].max(axis=c.field["axis"], keepdims=True, initial=-np.inf)


TERMS: dict[str, Callable[[Call], Any]] = {
    **dict.fromkeys(
        (
            "Add",
            "Sum",
            "Mean",
            "Gemm",
            "Linear",
            "MatMul",
            "FusedMatMul",
            "Einsum",
            "Conv",
            "ConvTranspose",
            "ConvGradInput",
        ),
        _linear,
    ),
    "ConvGradWeight": _linear,
    **dict.fromkeys(("AveragePool", "AveragePoolGrad", "GlobalAveragePool", "ReduceSum", "ReduceMean"), _linear),
    **dict.fromkeys(("GatherGrad", "GatherElementsGrad", "CumSum", "CumProdGrad", "Col2Im"), _linear),
    **dict.fromkeys(("Sub", "Mod"), lambda c: c.size[0] + c.size[1]),
    **dict.fromkeys(
        ("Pow", "PowSlope", "PowLog"), lambda c: np.abs(c.y) * (2 + np.abs((c.size[1] + 1) * np.log(c.size[0])))
    ),
    **dict.fromkeys(("InstanceNormalization", "GroupNormalization", "LayerNormalization", "Standardize"), _standard),
    "Resize": _resize,
    **dict.fromkeys(("GridSample", "GridSampleGrad", "GridSampleGradGrid"), _sampled),
    "DeformConv": _deformed,
    **dict.fromkeys(("DeformColumns", "DeformColumnsGrad"), _samples),
    **dict.fromkeys(("RoiAlign", "RoiAlignGrad"), _region),
    "AffineGrid": lambda c: np.broadcast_to(
        c.size[0].sum(axis=2).reshape(-1, *[1] * (c.y.ndim - 2), c.y.shape[-1]), c.y.shape
    ),
    "StandardizeGrad": _standardize_grad,
    "MeanVarianceNormalization": _mean_variance,
    "BatchNormalization": _batch_norm,
    "BatchNormalizationGradScale": _batch_norm_grad_scale,
    "BatchNormalizationGradInput": _batch_norm_grad_input,
    "LRN": lambda c: 2 * np.abs(c.y),
    "LRNGrad": lambda c: 4 * (2 * c.size[0] * c.field["bias"] ** -c.field["beta"] - c.op.reference(*c.size[:2])),
    "MaxPoolGrad": lambda c: c.op.reference(c.size[0], c.x[1]),
    "HardSigmoid": lambda c: np.abs(c.field["alpha"] * c.x[0]) + abs(c.field["beta"]),
    "HardSwish": lambda c: c.size[0] * (c.size[0] / 6 + 0.5),
    "HardSwishGrad": lambda c: c.size[0] * (c.size[1] / 3 + 0.5),
    "Gelu": lambda c: c.size[0],
    "GeluGrad": lambda c: c.size[0] * (1 + c.size[1]),
    "CeluGrad": lambda c: np.abs(c.y) * (1 + c.size[1] / c.field["alpha"]),
    **dict.fromkeys(("SiluGrad", "MishGrad"), lambda c: c.size[0] * np.exp(np.minimum(c.x[1], 0)) * (1 + c.size[1])),
    "TanhGrad": lambda c: c.size[0],
    "SigmoidGrad": lambda c: c.size[0] * c.size[1],
    **dict.fromkeys(
        ("Erf", "Tanh", "Sigmoid", "Softplus", "Elu", "Selu", "Celu"),
        lambda c: np.maximum(np.abs(c.y), c.field.get("alpha", 1)),
    ),
    **dict.fromkeys(("RNN", "GRU", "LSTM", "DynamicQuantizeLSTM", "RNNGrad", "GRUGrad", "LSTMGrad"), _recurrent),
    "ReduceLogSum": lambda c: np.maximum(np.abs(c.y), 1),
    "Softmax": lambda c: c.y * (1 + np.abs(c.x[0] - _greatest(c))),
    "SoftmaxGrad": lambda c: c.size[1] * (c.size[0] + (c.size[0] * c.size[1]).sum(axis=c.field["axis"], keepdims=True)),
    "LogSoftmax": lambda c: 1 + np.abs(c.x[0]) + np.abs(_greatest(c)),
    "LogSoftmaxGrad": _log_softmax_grad,
    "Mix": lambda c: type(c.op)(**{**c.op.attributes(), "weights": np.abs(c.field["weights"])}).reference(c.size[0]),
    **dict.fromkeys(("SoftmaxCrossEntropyLoss", "NegativeLogLikelihoodLoss"), _loss),
    **dict.fromkeys(("SoftmaxCrossEntropyLossGrad", "NegativeLogLikelihoodLossGrad"), _loss_grad),
    **dict.fromkeys(("CTCLoss", "CTCLossGrad"), _ctc),
}
