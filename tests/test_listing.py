"""What ``print(graph)`` and ``print(plan)`` show."""

from __future__ import annotations

import numpy as np

import nbconv
from nbconv.base.text import aligned, dims, size
from nbconv.graph import Graph, Node, Spec
from nbconv.model import Model
from nbconv.ops import lookup
from tests.models import small_model

F32 = np.dtype(np.float32)


def node(op: str, inputs: str, outputs: str, name: str = "", **fields) -> Node:
    return Node(lookup(op)(**fields), tuple(inputs.split()), tuple(outputs.split()), name)


def test_graph() -> None:
    graph = nbconv.load(small_model().SerializeToString()).graph
    assert str(graph).splitlines() == [
        "input   x: N×3×9×7",
        " #  OP                 INPUTS             OUTPUT  ATTRIBUTES                NODE",
        "%0  Conv               x, [4×3×3×2], [4]          strides=2,1 pads=1,0,1,1  conv1",
        "%1  Relu               %0                                                   relu1",
        "%2  GlobalAveragePool  %1                                                   pool1",
        "%3  Flatten            %2                                                   flatten1",
        "%4  Gemm               %3, [4×5], [5]     N×5                               gemm1",
        "output  y = %4: N×5",
        "small: 5 nodes, 4 constants of 404 B",
    ]
    assert repr(graph) == "<Graph small: 5 nodes>"


def test_graph_with_constants_and_many_outputs() -> None:
    """Numbers and short lists stand as they are, what is computed from constants where it is read; second outputs and
    inputs left out have a sign; of many outputs the first are listed."""
    nodes = [
        node("Cast", "half", "w", to=1),
        node("Transpose", "w", "turned"),
        node("Clip", "x  low".replace("  ", " - "), "clipped"),
        node("Mul", "clipped turned", "product"),
        node("Split", "product", " ".join(f"part{i}" for i in range(9)), axis=0, num_outputs=9),
        node("Reshape", "part1 shape", "y"),
    ]
    nodes[2].inputs = ("x", "", "low")
    constants = {
        "half": np.ones((3, 9), np.float16), "low": np.array(0.5, np.float32), "shape": np.array([1, 3]),
        "idle": np.zeros(1000, np.float32),
    }  # fmt: skip
    outputs = dict.fromkeys(["y", *(f"part{i}" for i in range(9))])
    lines = str(Graph(nodes, {"x": Spec((9, 3), F32)}, outputs, constants)).splitlines()
    assert [line.split("  ")[0] for line in lines[2:6]] == ["%2", "%3", "%4", "%5"]
    assert "x, -, 0.5" in lines[2]
    assert "%2, Transpose([3×9])" in lines[3]
    assert "%4:1, [1,3]" in lines[5]
    assert lines[6:8] == ["output  y = %5", "output  part0 = %4"]
    assert lines[13] == "output  and 3 more"
    assert lines[14] == "graph: 6 nodes (2 of them compute constants), 3 constants of 74 B"


def test_plan() -> None:
    """A line a step, in columns; nodes of several steps, ops in NumPy; totals in the last line."""
    nodes = [
        node("Conv", "x w b", "c", "conv"),
        node("Relu", "c", "r", "relu"),
        node("Mod", "r m", "y", "mod", fmod=1),
    ]
    rng = np.random.default_rng(0)
    constants = {
        "w": rng.standard_normal((5, 3, 2, 2)).astype(F32), "b": np.zeros(5, np.float32), "m": np.array(2, np.float32)
    }  # fmt: skip
    model = Model(Graph(nodes, {"x": Spec(("n", 3, 4, 4), F32)}, {"y": None}, constants, "two"))
    plan = model.plan({"x": (2, 3, 4, 4)})
    head, *lines = str(plan).splitlines()
    assert head == "input   x: 2×3×4×4"
    words = "#", "OP", "IMPLEMENTATION", "KERNEL", "INPUTS", "WEIGHTS", "OUTPUT", "LAYOUT", "NODE"
    columns = [lines[0].index(word) for word in words]
    rows = [[line[a:b].strip() for a, b in zip(columns, [*columns[1:], None])] for line in lines[1 : 1 + len(plan.steps)]]
    assert [row[0] for row in rows] == [str(i) for i in range(len(plan.steps))]
    convolution = [row for row in rows if row[1] == "Conv+Relu"]
    assert {row[2] for row in convolution} == {"small_channels"} and convolution[-1][3] == "conv"
    assert convolution[0][4:6] == ["2×3×4×4", "5×3×2×2"]
    assert convolution[-1][6:] == ["2×5×3×3", "NHWC    360 B", "relu"]
    assert all(row[4:8] == ["", "", "", ""] for row in convolution[1:-1])
    assert rows[-1][1:5] == ["Mod", "", "numpy", "2×5×3×3"]
    assert rows[-1][6:] == ["2×5×3×3", "NCHW    360 B", "mod"]
    assert lines[1 + len(rows)] == "output  y: 2×5×3×3"
    flops = 2 * 2 * 5 * 3 * 3 * 12 + 90
    assert lines[-1].startswith(
        f"{plan.target.name}: {len(rows)} steps (1 in NumPy), {flops / 1000:.2f} k FLOPs, values of "
    )
    assert f"in {size(plan.arena)} of memory" in lines[-1]
    assert repr(plan) == f"<Plan of two for {plan.target.name}: {len(rows)} steps>"


def test_bodies() -> None:
    """Nodes and steps of bodies stand behind the node that holds them; sums count them, too."""
    weights = {"w": np.ones((2, 3, 3, 3), np.float32)}
    one = Graph([node("Conv", "x w", "c"), node("Relu", "c", "r")], {}, {"r": None}, weights, "one")
    other = Graph([node("Conv", "x w", "d")], {}, {"d": None}, weights, "other")
    nodes = [node("If", "k x", "y", then_branch=one, else_branch=other), node("Sigmoid", "y", "z")]
    inputs = {"x": Spec((1, 3, 8, 8), F32), "k": Spec((), np.dtype(bool))}
    graph = Graph(nodes, inputs, {"z": None}, {}, "branches")
    assert str(graph).splitlines() == [
        "input   x: 1×3×8×8",
        "input   k: scalar bool",
        "   #  OP              INPUTS        NODE",
        "  %0  If              k, x          y",
        "        then_branch:",
        "%0.0      Conv        x, [2×3×3×3]  c",
        "%0.1      Relu        %0.0          r",
        "          gives       %0.1",
        "        else_branch:",
        "%0.0      Conv        x, [2×3×3×3]  d",
        "          gives       %0.0",
        "  %1  Sigmoid         %0            z",
        "output  z = %1",
        "branches: 2 nodes, 2 constants of 432 B",
    ]
    plan = Model(graph).plan({"x": (1, 3, 8, 8), "k": ()})
    lines = str(plan).splitlines()
    steps = [line.split()[0] for line in lines if line.split()[0].replace(".", "").isdigit()]
    assert steps[0] == "0" and steps[-1] == "1" and set(steps[1:-1]) >= {"0.0", "0.1"}
    assert any("then_branch:" in line for line in lines) and any("Conv+Relu" in line for line in lines)
    assert lines[-1].startswith(f"{plan.target.name}: {len(steps)} steps, ")


def test_columns_fit() -> None:
    rows = [("1", "a name that is too long to be shown", "12"), ("22", "short", "3")]
    lines = aligned(("N", "NAME", "SIZE"), rows, right=(0, 2), width=30)
    assert max(map(len, lines)) == 30
    assert lines[1].startswith(" 1  a na…") and lines[1].endswith("shown    12")
    assert aligned(("N", "NAME"), [("1", "x" * 40)], width=20, cuts=[0])[1] == f"1  {'x' * 40}"
    assert dims((1, "n", None)) == "1×n×?" and dims(()) == "scalar"
