"""The grid of losses and optimizers with their options, which is held to PyTorch: by `python -m tests.train.grid` all of it,
by the tests a part in which every row stands, with PyTorch's values recorded (`--record`)."""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import nbconv
from nbconv.graph import Graph, Spec
from nbconv.model import Model
from tests.train.models import F32, node

RECORDED = Path(__file__).parent.parent / "data" / "torch_steps.json"
STEPS = 4
CLASSES = 4
WEIGHTS = (0.5, 1.0, 2.0, 1.5)


class Loss(NamedTuple):
    """A loss with options; ``targets``: "labels", "pixels" (labels of pixels), "shares", "signs", "numbers", "binary"."""

    name: str
    targets: str
    options: dict[str, Any]

    @property
    def title(self) -> str:
        return f"{self.name} of {self.targets} {self.options or ''}".strip()


def _all(name: str, targets: tuple[str, ...], **options: tuple) -> list[Loss]:
    """Every choice of options; those that are None are left out."""
    rows = [dict(zip(options, values, strict=True)) for values in itertools.product(*options.values())]
    return [Loss(name, t, {k: v for k, v in row.items() if v is not None}) for t in targets for row in rows]


REDUCTION = (None, "sum")
LOSSES = [
    *_all("cross_entropy", ("labels", "pixels"), weights=(None, WEIGHTS), ignore_index=(None, 1),
          label_smoothing=(None, 0.2), reduction=REDUCTION),
    *_all("cross_entropy", ("shares",), weights=(None, WEIGHTS), label_smoothing=(None, 0.2), reduction=REDUCTION),
    *_all("binary_cross_entropy", ("binary", "shares"), pos_weight=(None, 3.0, WEIGHTS), weights=(None, WEIGHTS),
          reduction=REDUCTION),
    *_all("multiclass_hinge", ("labels",), margin=(None, 0.5), reduction=REDUCTION),
    *_all("hinge", ("signs",), margin=(None, 0.5), reduction=REDUCTION),
    *_all("mse", ("numbers",), reduction=REDUCTION),
    *_all("l1", ("numbers",), reduction=REDUCTION),
    *_all("huber", ("numbers",), delta=(None, 0.7), reduction=REDUCTION),
    *_all("smooth_l1", ("numbers",), beta=(None, 0.7), reduction=REDUCTION),
    *_all("dice", ("pixels", "binary"), smooth=(None, 0.5), activation=(None, "softmax", "sigmoid")),
    *_all("dice", ("pixels",), ignore_index=(1,)),
    *_all("focal", ("labels", "pixels"), gamma=(None, 0.0, 3.5), weights=(None, WEIGHTS), reduction=REDUCTION),
    *_all("binary_focal", ("binary",), gamma=(None, 0.0, 3.5), alpha=(None, 0.4), reduction=REDUCTION),
]  # fmt: skip


class Rule(NamedTuple):
    """An optimizer with options."""

    name: str
    options: dict[str, Any]

    @property
    def title(self) -> str:
        return f"{self.name} {self.options or ''}".strip()


def _rules(name: str, *own: dict[str, Any]) -> list[Rule]:
    """Each of its own options with each of those that all have."""
    shared: list[dict[str, Any]] = [{}, {"weight_decay": 0.1}, {"l1": 0.05}, {"clip_norm": 0.1}, {"clip_value": 0.02}]
    return [Rule(name, {**a, **b}) for a in own for b in shared]


# eps is such that gradients of 0 but for rounding are not made as large as others
RULES = [
    *_rules("SGD", {"lr": 0.1}, {"lr": 0.1, "momentum": 0.9}, {"lr": 0.1, "momentum": 0.8, "nesterov": True}),
    *_rules("AdaGrad", {"lr": 0.05}, {"lr": 0.05, "start": 0.1, "eps": 1e-4}),
    *_rules("AdaDelta", {"lr": 1.0, "eps": 1e-3}, {"lr": 0.5, "rho": 0.7, "eps": 1e-2}),
    *_rules("RMSProp", {"lr": 0.01, "eps": 1e-3}, {"lr": 0.01, "alpha": 0.8, "eps": 1e-2, "momentum": 0.5}),
    *_rules("Adam", {"lr": 0.02, "eps": 1e-4}, {"lr": 0.02, "betas": (0.8, 0.9), "eps": 1e-3}),
    *_rules("AdamW", {"lr": 0.02, "eps": 1e-4}, {"lr": 0.02, "betas": (0.8, 0.9), "eps": 1e-3}),
]
PART = [(loss, RULES[(7 * i + 26 * k) % len(RULES)]) for i, loss in enumerate(LOSSES) for k in range(2)]
"""The part in which every row stands."""


def data(loss: Loss) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """(inputs, targets, weights): of a layer (6, 5) to (6, 4), or of a convolution (2, 5, 3, 2) to (2, 4, 3, 2)."""
    rng = np.random.default_rng(len(loss.title))
    wide = loss.targets == "pixels" or loss.name == "dice"
    n, rest = (2, (3, 2)) if wide else (6, ())
    x = rng.standard_normal((n, 5, *rest)).astype(F32)
    w = (0.5 * rng.standard_normal((CLASSES, 5, *[1] * len(rest)))).astype(F32)
    state = {"w": w, "b": (0.1 * rng.standard_normal(CLASSES)).astype(F32)}
    labels = rng.integers(0, CLASSES, (n, *rest))
    labels.flat[0] = 1  # one that is ignored
    shape = (n, CLASSES, *rest)
    targets = {
        "labels": labels,
        "pixels": labels,
        "shares": np.moveaxis(rng.dirichlet(np.ones(CLASSES), (n, *rest)), -1, 1).astype(F32),
        "binary": rng.integers(0, 2, shape).astype(F32),
        "signs": rng.choice([-1.0, 1.0], shape).astype(F32),
        "numbers": rng.standard_normal(shape).astype(F32),
    }[loss.targets]
    return x, targets, state


def ours(loss: Loss, rule: Rule) -> tuple[list[float], dict[str, np.ndarray]]:
    """The losses of some steps, and the weights behind them."""
    x, targets, state = data(loss)
    layer = node("Conv", "x w b", "y") if x.ndim > 2 else node("Gemm", "x w b", "y", transB=1)
    shape = ("n", *x.shape[1:])
    graph = Graph([layer], {"x": Spec(shape, F32)}, {"y": Spec((*shape[:1], CLASSES, *shape[2:]), F32)}, state)
    optimizer = getattr(nbconv, rule.name)(**rule.options)
    trainer = nbconv.Trainer(Model(graph, threads=1), loss.name, optimizer, loss_options=loss.options)
    return [trainer.step(x, targets) for _ in range(STEPS)], {n: trainer.state[n] for n in state}


def theirs(loss: Loss, rule: Rule, dtype: str = "float64") -> tuple[list[float], dict[str, np.ndarray]]:
    """The same by PyTorch."""
    import torch

    torch.set_num_threads(1)
    kind = getattr(torch, dtype)
    x, targets, state = data(loss)
    w, b = (torch.tensor(state[n], dtype=kind, requires_grad=True) for n in ("w", "b"))
    t = torch.tensor(targets) if targets.dtype.kind == "i" else torch.tensor(targets, dtype=kind)
    options = dict(rule.options)
    l1, norm, value = (options.pop(n, None) for n in ("l1", "clip_norm", "clip_value"))
    names = {"start": "initial_accumulator_value"}
    kinds = {"AdaGrad": "Adagrad", "AdaDelta": "Adadelta", "RMSProp": "RMSprop"}
    make = getattr(torch.optim, kinds.get(rule.name, rule.name))
    if rule.name == "AdamW":
        options.setdefault("weight_decay", 0.01)
    optimizer = make([w, b], **{names.get(k, k): v for k, v in options.items()})
    found = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        given = torch.tensor(x, dtype=kind)
        y = torch.nn.functional.conv2d(given, w, b) if x.ndim > 2 else torch.nn.functional.linear(given, w, b)
        made = _torch_loss(loss, y, t)
        made.backward()
        if norm is not None:
            torch.nn.utils.clip_grad_norm_([w, b], norm)
        if value is not None:
            torch.nn.utils.clip_grad_value_([w, b], value)
        for p in (w, b):
            if l1 is not None and p.grad is not None:
                p.grad += l1 * p.detach().sign()
        optimizer.step()
        found.append(made.item())
    return found, {"w": w.detach().numpy(), "b": b.detach().numpy()}


def _torch_loss(loss: Loss, y: Any, t: Any) -> Any:
    import torch
    from torch.nn import functional

    def tensor(v: Any) -> Any:
        return torch.tensor(v, dtype=y.dtype)

    options = {k: tensor(v) if k in ("weights", "pos_weight") else v for k, v in loss.options.items()}
    weights = options.pop("weights", None)
    reduction = options.get("reduction", "mean")
    if loss.name == "cross_entropy":
        return functional.cross_entropy(y, t, weight=weights, **options)
    if loss.name == "binary_cross_entropy":
        return functional.binary_cross_entropy_with_logits(y, t, weight=weights, **options)
    if loss.name == "multiclass_hinge":
        return functional.multi_margin_loss(y, t, **options)
    if loss.name in ("mse", "huber", "l1", "smooth_l1"):
        return getattr(functional, f"{loss.name}_loss")(y, t, **options)
    if loss.name == "hinge":  # PyTorch has none of this shape: what its documentation would say
        each = (options.get("margin", 1.0) - t * y).clamp(min=0)
        return each.mean() if reduction == "mean" else each.sum()
    if loss.name == "focal":
        log_p = functional.log_softmax(y, dim=1)
        mine = log_p.gather(1, t[:, None])[:, 0]
        w = torch.ones_like(mine) if weights is None else weights[t]
        total = -(w * (1 - mine.exp()) ** options.get("gamma", 2.0) * mine).sum()
        return total / w.sum() if reduction == "mean" else total
    if loss.name == "binary_focal":  # torchvision.ops.sigmoid_focal_loss
        p, alpha = y.sigmoid(), options.get("alpha", 0.25)
        p_t = p * t + (1 - p) * (1 - t)
        each = functional.binary_cross_entropy_with_logits(y, t, reduction="none") * (1 - p_t) ** options.get("gamma", 2.0)
        each = each * (alpha * t + (1 - alpha) * (1 - t))
        return each.mean() if reduction == "mean" else each.sum()
    labels = not t.is_floating_point()
    soft = options.get("activation", "softmax" if labels else "sigmoid") == "softmax"
    p = y.softmax(dim=1) if soft else y.sigmoid()
    one = functional.one_hot(t, CLASSES).movedim(-1, 1).to(p.dtype) if labels else t
    if "ignore_index" in options:
        kept = (t != options["ignore_index"])[:, None]
        one, p = one * kept, p * kept
    smooth, axes = options.get("smooth", 1.0), tuple(range(2, y.ndim))
    both, each = (p * one).sum(dim=axes), p.sum(dim=axes) + one.sum(dim=axes)
    return 1 - ((2 * both + smooth) / (each + smooth)).mean()


def compare(loss: Loss, rule: Rule, dtype: str = "") -> float:
    """How far steps (``dtype``: PyTorch's in this type) are from PyTorch's in float64: of losses relatively, of weights by
    their largest."""
    mine, weights = theirs(loss, rule, dtype) if dtype else ours(loss, rule)
    want, others = theirs(loss, rule)
    far = max(abs(a - b) / max(abs(b), 1e-3) for a, b in zip(mine, want, strict=True))
    return max(far, *(float(np.abs(weights[n] - others[n]).max() / np.abs(others[n]).max()) for n in others))


def main() -> None:
    if "--record" in sys.argv:
        kept = {f"{loss.title} | {rule.title}": theirs(loss, rule)[0] for loss, rule in PART}
        RECORDED.write_text("{\n" + ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in kept.items()) + "\n}\n")
        print(f"{len(kept)} rows in {RECORDED}")
        return
    worst, where, count = 0.0, "", 0
    for loss, rule in itertools.product(LOSSES, RULES):
        far, count = compare(loss, rule), count + 1
        if far > 1e-5:
            print(
                f"{far:.1e} (PyTorch's float32 {compare(loss, rule, 'float32'):.1e})  {loss.title} | {rule.title}",
                flush=True,
            )
        worst, where = max((worst, where), (far, f"{loss.title} | {rule.title}"))
    print(f"{count} pairs of {len(LOSSES)} losses and {len(RULES)} optimizers, {STEPS} steps: at most {worst:.1e} ({where})")


if __name__ == "__main__":
    main()
