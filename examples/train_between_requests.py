"""Train a few milliseconds at a time between requests that the same model answers.

    python examples/train_between_requests.py [STEPS]

`Trainer.step(..., budget_ms=5)` works about 5 ms and returns None until the step is done. Requests see the old weights
until `Trainer.commit`, so that no answer comes from half a step.
"""

import sys
import time

import numpy as np

import nbconv
from nbconv.models import efficientnet_lite0, emoji

BATCH, BUDGET_MS = 8, 5


def main(argv: list[str]) -> None:
    steps = int(argv[0]) if argv else 40
    drawings = emoji()
    data = nbconv.Arrays(drawings.x, drawings.y, size=(224, 224), mean=127, std=128)
    model = nbconv.load(efficientnet_lite0())
    model.replace_head(len(drawings.classes))
    trainer = nbconv.Trainer(model, optimizer=nbconv.Adam(lr=1e-3), trainable="head")
    rng = np.random.default_rng(0)
    losses, waits = [], []
    for _ in range(steps):
        x, y = data.batch(rng.choice(len(data), BATCH, replace=False))
        loss = None
        while loss is None:
            begin = time.perf_counter()
            model(x[:1])  # a request; a service would look into its queue here
            waits.append(time.perf_counter() - begin)
            loss = trainer.step(x, y, budget_ms=BUDGET_MS)  # the same batch until it is done
        losses.append(loss)
    trainer.commit()  # from here on requests see the new weights
    quarter = max(1, steps // 4)
    first, last = np.mean(losses[:quarter]), np.mean(losses[-quarter:])
    print(f"{steps} steps between {len(waits)} requests; loss {first:.2f} at first, {last:.2f} at last")
    print(f"a request took {np.median(waits) * 1e3:.1f} ms")


if __name__ == "__main__":
    main(sys.argv[1:])
