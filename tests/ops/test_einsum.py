"""Einsum: against NumPy's and onnxruntime's, its products on kernels."""

from __future__ import annotations

import numpy as np
import pytest
from numpy import nan

from nbconv.edit.parameters import parameters
from nbconv.errors import ModelError
from nbconv.graph import Graph, Node, Spec
from nbconv.model import Model
from nbconv.ops.einsum import Einsum
from tests.check import case, run_cases, sampler

r = sampler(17)
F32 = np.dtype(np.float32)


def e(equation: str) -> Einsum:
    return Einsum(equation=equation)


CASES = [
    case(e("ij,jk->ik"), [[1.0, 2.0], [3.0, 4.0]], [[5.0], [6.0]], expect=[[17], [39]]),
    case(e("ij , jk"), r(3, 4), r(4, 5)),
    case(e("ba"), r(3, 4)),
    case(e("ij->ji"), [[1, 2, 3]], expect=[[1], [2], [3]]),
    case(e("ij->i"), [[1.0, 2.0], [3.0, nan]], expect=[3, nan]),
    case(e("ij->"), r(3, 4)),
    case(e("i,i"), [1.0, 2.0, 3.0], [4.0, 5.0, 6.0], expect=32),
    case(e("i,j->ij"), [1.0, 2.0], [3.0, 4.0, 5.0], expect=[[3, 4, 5], [6, 8, 10]]),
    case(e("bij,bjk->bik"), r(3, 4, 5), r(3, 5, 2)),
    case(e("bhid,bhjd->bhij"), r(2, 3, 5, 4), r(2, 3, 6, 4)),
    case(e("bhij,bhjd->bihd"), r(2, 3, 5, 4), r(2, 3, 4, 6)),
    case(e("bchw,oc->bohw"), r(2, 3, 4, 5), r(6, 3)),
    case(e("oc,bchw->bohw"), r(6, 3), r(2, 3, 4, 5)),
    case(e("bhwc,c->bhwc"), r(2, 3, 4, 5), r(5)),
    case(e("abc,cd,bd->a"), r(2, 3, 4), r(4, 5), r(3, 5)),
    case(e("ij,kl->"), r(2, 3), r(4, 5)),
    case(e("...ij,...jk->...ik"), r(2, 3, 4, 5), r(2, 3, 5, 2)),
    case(e("...ij,...jk->...ik"), r(2, 3, 4, 5), r(5, 2), differs="it wants as many axes in each ellipsis"),
    case(e("a...a->a..."), r(3, 2, 3)),
    case(e("...ii->...i"), r(2, 3, 3)),
    case(e("ii"), [[1.0, 2.0], [3.0, 4.0]], expect=5),
    case(e("iij,jk->ik"), r(3, 3, 4), r(4, 2)),
    case(e("ij,jk->ik"), r(3, 1), r(4, 2)),
    case(e("ij,ij->ij"), r(1, 4), r(3, 1)),
    case(e("ij,ij->ji"), r(1, 1), r(1, 1)),
    case(e("ij,jk->ik"), r(0, 3), r(3, 2)),
    case(e("ij,jk->ik"), r(2, 0), r(0, 2), expect=[[0, 0], [0, 0]]),
    case(e("ij,jk->ik"), r(2, 3, dtype=np.int64), r(3, 2, dtype=np.int64)),
    case(e("A,a->aA"), [1.0, 2.0], [3.0, 4.0], expect=[[3, 6], [4, 8]]),
    case(e("Aa"), [[1.0, 2.0]], expect=[[1, 2]], differs="it has the small letters first"),
]
test_cases = run_cases(CASES)


@pytest.mark.parametrize(("equation", "shapes"), [
    ("bhid,bhjd->bhij", ((2, 3, 5, 4), (2, 3, 6, 4))),
    ("bchw,oc->bohw", ((2, 3, 4, 5), (6, 3))),
    ("abc,cd,bd->a", ((2, 3, 4), (4, 5), (3, 5))),
    ("i,j->ij", ((3,), (4,))),
])  # fmt: skip
def test_kernels_do_it(equation, shapes) -> None:
    names = [f"x{i}" for i in range(len(shapes))]
    inputs = {name: Spec(shape, F32) for name, shape in zip(names, shapes, strict=True)}
    graph = Graph([Node(e(equation), tuple(names), ("y",))], inputs, {"y": None}, {})
    plan = Model(graph).plan(dict(zip(names, shapes, strict=True)))
    assert plan.steps and not plan.numpy_steps()


def test_weights_are_packed_once() -> None:
    """What is made of a constant operand does not depend on the other's shape: plans share it."""
    w = r(6, 3)
    graph = Graph(
        [Node(e("oc,bchw->bohw"), ("w", "x"), ("y",))], {"x": Spec((None, 3, None, None), F32)}, {"y": None}, {"w": w}
    )
    model = Model(graph)
    plans = [model.plan({"x": (2, 3, 4, size)}) for size in (5, 7)]
    packed = [{step.arguments["b"].name for step in plan.steps if step.kernel == "gemm.gemm"} for plan in plans]
    assert packed[0] and packed[0] == packed[1]
    assert not any(plan.own & packed[0] for plan in plans)
    assert [p.name for p in parameters(graph)] == ["w"]


def test_what_does_not_fit() -> None:
    for equation, shapes, message in (
        ("ij,jk->ik", ((2, 3),), "has 2 terms for 1 inputs"),
        ("ij->i", ((2, 3, 4),), "gives input 0 2 axes, it has 3"),
        ("ij,jk->ik", ((2, 3), (4, 5)), "input 1 has 4 along 'j'"),
        ("ij->ik", ((2, 3),), "one that no input has"),
        ("ij->ii", ((2, 3),), "has a letter twice"),
        ("i1->i", ((2, 3),), "other characters than letters"),
        ("...ij->...", ((2,),), "does not fit inputs of ranks 1"),
    ):
        with pytest.raises(ModelError, match=message):
            e(equation).infer(*(Spec(shape, F32) for shape in shapes))
