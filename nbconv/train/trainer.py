"""`Trainer`: a model that learns, a step at a time or by the epoch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nbconv.train.learner import Learner


class Trainer(Learner):
    """Trains a model's weights. The model itself stays what it is, until `commit`.

    ``loss``: a name of `LOSSES` or a function (to, logits, targets) that adds nodes, see `nbconv.train.losses`;
    ``loss_options`` are its keywords. For several outputs it is a dict, ``{"out": "mse", "cls": ("cross_entropy", {…})}``:
    what is made small is their sum, each times its number in ``loss_weights`` (1 where it has none), and targets are a dict
    by output, too. A function of several outputs at once has a tuple of names as its key, and gets a tuple of values.
    ``optimizer``: `SGD`, `Adam`, … ``trainable``: "all", "head", "last:k", "bias" (what is added to channels), "norm"
    (scales and offsets of normalisations), "auto", or globs over the names of parameters and nodes; the classifier's head
    trains with "bias", "norm" and "auto", too. "auto" chooses layers and channels on the first batch, as many as
    ``memory_mb`` (then with the optimizer's slots) and ``step_ms`` (milliseconds of a step, here) leave room for:
    `Learner.choose` says which. ``schedule``: see `nbconv.train.schedules`; or a name, such as "cosine", that goes over the
    epochs of `fit`. ``lr_decay``: the learning rate of a layer is this times that of the layer after it. ``seed`` decides
    everything random. ``memory_mb``: what activations, gradients and scratch of a step may take (MiB): values are computed
    again and the batch cut as far as needed; not through batch statistics, unless ``micro_batch_norm`` lets each
    micro-batch have its own. ``output``: which output is trained, where the model has several. ``repair``: convolutions
    that train get a scale and a shift a channel, which fold back into them (see docs/training.md). ``adapters``: the rank
    of the changes by which weights of convolutions, Gemm and MatMul train that ``trainable`` names (LoRA); the head, and
    what has no more numbers than such a change, trains whole. What is saved has the same nodes and the changed weights.
    ``bn_momentum``: the share of batch normalisation's running statistics that each step keeps, in place of what the model
    says (ONNX's meaning: 0.9 is PyTorch's 0.1). ``threads``: the model's, unless given. ``steps_per_epoch``: how many calls
    of `step` are an epoch, for schedules that go by epochs (`fit` counts its own). ``ema``: keeps
    averages of the weights, of which each step keeps this share; they are what is evaluated, run and saved. ``accumulate``:
    how many batches a step takes, one after another (gradient accumulation); schedules count steps.
    Denormal numbers are flushed to zero where the model's are (see `nbconv.load`).

    Batch normalisation whose scale or shift trains uses the batch's statistics and updates the running ones; frozen parts
    run as at inference. ValueError for arguments that make no sense; UnsupportedError, at the first step, names the nodes
    that have no gradient.
    """

    def evaluate(self, data: Any, batch_size: int = 32, metrics: Any = None) -> dict[str, Any]:
        """Loss and metrics on data ((x, y), `Data` or an iterable of batches) with the weights as they are now: ``loss``;
        for labels also ``accuracy`` (of pixels, where these are labelled), ``confusion`` (classes, classes), and the means
        ``precision``, ``recall``, ``f1`` and ``jaccard`` over classes. With a loss by output these are called ``out_loss``,
        ``out_accuracy``, …, and ``loss`` is the weighted sum. ``metrics``: those that are wanted in place of these, names or
        functions: see docs/training.md."""
        from nbconv.train.asked import asked
        from nbconv.train.evaluation import evaluate

        return evaluate(self, data, batch_size, asked(metrics))

    def fit(self, train: Any, validation: Any = None, **options: Any) -> Any:
        """Trains by the epoch: see `nbconv.train.fit.fit`, whose options these are."""
        from nbconv.train.fit import fit

        return fit(self, train, validation, **options)

    def lr_find(self, train: Any, **options: Any) -> Any:
        """A learning rate to begin with: see `nbconv.train.fit.lr_find`."""
        from nbconv.train.fit import lr_find

        return lr_find(self, train, **options)

    def save_checkpoint(self, path: Any, more: Mapping[str, Any] | None = None) -> None:
        """All that training goes on from, whole or not at all: see `nbconv.train.checkpoint`."""
        from nbconv.train.checkpoint import save

        save(self, path, more or {})

    def load_checkpoint(self, path: Any) -> dict[str, Any]:
        """Back to where a checkpoint was written; what was kept beside it. ValueError where it is of another training."""
        from nbconv.train.checkpoint import load

        return load(self, path)
