"""Bad models: each a ModelError on one line that names what is wrong; nothing crashes, hangs or reads elsewhere."""

from __future__ import annotations

import os

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from nbconv.converters.complete import _tensors, complete
from nbconv.converters.onnx import read, survey
from nbconv.converters.weights import Source
from nbconv.errors import ModelError
from tests import models

GOOD = models.small_model().SerializeToString()


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NBCONV_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def refused(model: onnx.ModelProto | bytes | os.PathLike, match: str) -> None:
    source = model.SerializeToString() if isinstance(model, onnx.ModelProto) else model
    for reads in (read, survey):
        with pytest.raises(ModelError, match=match) as error:
            reads(source)
        assert str(error.value).isprintable()


@pytest.mark.parametrize(
    "content",
    [
        b"\0" * 100,
        b"\xff" * 100,
        b"# A text file\n\nof some lines\n" * 9,
        np.random.default_rng(0).bytes(4096),
        GOOD[:-1],
        GOOD[:40],
        b"\x89PNG\r\n\x1a\n",
        b"\x08\x08",
    ],
)
def test_no_model(tmp_path, content):
    refused(content, r"the given data is not an ONNX model: .+")
    (tmp_path / "it.onnx").write_bytes(content)
    refused(tmp_path / "it.onnx", r"it\.onnx is not an ONNX model: .+")


def test_no_file(tmp_path):
    refused(b"", "empty")
    (tmp_path / "it.onnx").touch()
    refused(tmp_path / "it.onnx", r"it\.onnx is empty")
    refused(tmp_path, "is not a file")
    os.mkfifo(tmp_path / "pipe.onnx")
    refused(tmp_path / "pipe.onnx", "is not a file")
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "missing.onnx")


def changed(change) -> onnx.ModelProto:
    model = models.small_model()
    change(model.graph)
    return model


def set_dim(value):
    def change(g):
        g.input[0].type.tensor_type.shape.dim[1].dim_value = value

    return change


def set_weight(**fields):
    def change(g):
        for key, value in fields.items():
            field = getattr(g.initializer[0], key)
            if key == "dims":
                del field[:]
                field.extend(value)
            else:
                setattr(g.initializer[0], key, value)

    return change


WRONG = {
    "cycle": (lambda g: g.node[0].input.__setitem__(0, "act"), "conv1.*cycle"),
    "missing initializer": (lambda g: g.initializer.pop(0), "conv1.*'w', which is no input, no initializer"),
    "nobody's output": (lambda g: setattr(g.output[0], "name", "z"), "nothing makes the output 'z'"),
    "no outputs": (lambda g: g.ClearField("output"), "no outputs"),
    "output twice": (lambda g: g.output.append(g.output[0]), "'y' is declared twice"),
    "input twice": (lambda g: g.input.append(g.input[0]), "'x' is declared twice"),
    "value twice": (lambda g: g.node[1].output.__setitem__(0, "conv"), "relu1.*'conv' is made twice"),
    "input made": (lambda g: g.node[1].output.__setitem__(0, "x"), "relu1.*'x' is made twice"),
    "initializer twice": (lambda g: g.initializer.append(g.initializer[0]), "'w' is given twice"),
    "negative input": (set_dim(-5), "'x' is declared with a dimension of -5"),
    "absurd input": (set_dim(2**60), "'x' is declared as .*1152921504606846976"),
    "input without type": (lambda g: g.input[0].type.tensor_type.ClearField("elem_type"), "'x' has no element type"),
    "negative weight": (set_weight(dims=[4, -3, 3, 2]), "w: the shape .* negative"),
    "absurd weight": (set_weight(dims=[2**40, 2**20]), "w: .*wants 4611686018427387904 bytes, it has 288 bytes"),
    "overflowing weight": (set_weight(dims=[2**62, 4, 3, 2]), "w: .*wants"),
    "small weight": (set_weight(dims=[1, 1]), "w: .*wants 4 bytes, it has 288"),
    "weight of other type": (set_weight(data_type=TensorProto.DOUBLE), "w: float64.*wants 576 bytes"),
    "weight of no type": (set_weight(data_type=0), "w: 0 is no element type"),
    "weight of unknown type": (set_weight(data_type=99), "w: 99 is no element type"),
    "weight without name": (set_weight(name=""), "an initializer has no name"),
    "too few inputs": (lambda g: g.node[0].ClearField("input"), "conv1"),
    "too many outputs": (lambda g: g.node[1].output.append("more"), "relu1"),
    "attribute of other type": (
        lambda g: g.node[0].attribute[0].CopyFrom(helper.make_attribute("pads", "text")),
        "conv1.*pads",
    ),
    "input left out": (lambda g: g.node[0].input.__setitem__(1, ""), "conv1.*input 1.*empty"),
    "attribute twice": (lambda g: g.node[0].attribute.append(g.node[0].attribute[0]), "conv1.*'pads' is given twice"),
    "constant without value": (lambda g: g.node.append(helper.make_node("Constant", [], ["c"], "c1")), "c1.*one attribute"),
    "constant and input": (
        lambda g: g.node.append(helper.make_node("Constant", [], ["x"], value_float=1.0)),
        "'x' is an input and also a Constant",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_damaged_graph(name):
    change, match = WRONG[name]
    refused(changed(change), match)


def test_unknown_attribute_is_named():
    refused(changed(lambda g: g.node[1].attribute.append(helper.make_attribute("slope", 1.0))), r"relu1.*slope")


def test_versions():
    model = models.small_model()
    model.ir_version = 1000
    refused(model, "IR version 1000")
    model = models.small_model()
    model.ClearField("opset_import")
    refused(model, "which opset")


LEAVING = (
    "../secret.bin",
    "/etc/passwd",
    "link.bin",
    "linked/secret.bin",
    "a/../../secret.bin",
    "C:\\secret.bin",
    "..\\secret.bin",
)


@pytest.mark.parametrize("location", [*LEAVING, ".", "..", "", "missing.bin", "pipe.bin", "sub"])
def test_external_data_stays_in_the_folder(tmp_path, location):
    (tmp_path / "secret.bin").write_bytes(bytes(1000))
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    (folder / "linked").symlink_to(tmp_path)
    os.mkfifo(folder / "pipe.bin")
    (folder / "m.onnx").write_bytes(external(location))
    with pytest.raises(ModelError, match=r"(?s)w: its data|pipe\.bin is not a file|sub is not a file"):
        read(folder / "m.onnx")


@pytest.mark.skipif(not hasattr(os, "link"), reason="no links")
@pytest.mark.parametrize("location", ["hard.bin", "soft.bin", "linked/w.bin", "sub/hard.bin"])
def test_external_data_behind_links(tmp_path, location):
    """Refused inside the folder, too, as onnx does; a copy and a folder are read."""
    (tmp_path / "sub").mkdir()
    for name in ("w.bin", "sub/w.bin", "one.bin"):
        (tmp_path / name).write_bytes(bytes(1000))
    os.link(tmp_path / "one.bin", tmp_path / "hard.bin")
    os.link(tmp_path / "one.bin", tmp_path / "sub/hard.bin")
    (tmp_path / "soft.bin").symlink_to("w.bin")
    (tmp_path / "linked").symlink_to("sub")
    file = tmp_path / "m.onnx"
    for good in ("w.bin", "sub/w.bin"):
        file.write_bytes(external(good))
        assert read(file).constants["w"].shape == tuple(complete(Source(file)).graph.initializer[0].dims) == (4, 3, 3, 2)
    file.write_bytes(external(location))
    with pytest.raises(ModelError, match=r"(?s)^w: its data.*link.*put a copy there"):
        read(file)
    with pytest.raises(ModelError, match="put a copy there"):
        complete(Source(file))
    with pytest.raises(onnx.checker.ValidationError):
        onnx.load(file)


@pytest.mark.parametrize(
    "key, value",
    [("offset", v) for v in ("-8", "1000", "9" * 30, "9" * 9000, "x")] + [("length", v) for v in ("4", "-1", "1e9")],
)
def test_external_offsets(tmp_path, key, value):
    (tmp_path / "w.bin").write_bytes(bytes(1000))
    (tmp_path / "m.onnx").write_bytes(external("w.bin"))
    assert read(tmp_path / "m.onnx").constants["w"].shape == (4, 3, 3, 2)
    (tmp_path / "m.onnx").write_bytes(external("w.bin", **{key: value}))
    with pytest.raises(ModelError, match="w: "):
        read(tmp_path / "m.onnx")


def external(location: str, **entries: str) -> bytes:
    model = models.small_model()
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=value)
    return model.SerializeToString()


def test_complete_is_what_onnx_loads(tmp_path):
    """With data in another file, of initializers, of attributes, in subgraphs and functions."""
    tensors = [onnx.numpy_helper.from_array(np.arange(i, i + 5, dtype=np.float32), f"t{i}") for i in range(4)]
    relu = helper.make_node("Relu", ["a"], ["b"])
    inner = helper.make_graph([relu], "inner", [], [], [tensors[0]])
    body = [helper.make_node("Constant", [], ["b"], value=tensors[1])]
    model = models.small_model()
    model.graph.node[0].attribute.append(helper.make_attribute("then", inner))
    model.graph.node[0].attribute.append(helper.make_attribute("several", [tensors[2], tensors[3]]))
    model.functions.append(helper.make_function("mine", "F", ["a"], ["b"], body, [helper.make_opsetid("", 17)]))
    wanted = model.SerializeToString(deterministic=True)
    outside = 0
    for tensor in _tensors(model):
        if tensor.raw_data:
            (tmp_path / f"{outside}.bin").write_bytes(tensor.raw_data)
            tensor.ClearField("raw_data")
            tensor.data_location = TensorProto.EXTERNAL
            tensor.external_data.add(key="location", value=f"{outside}.bin")
            outside += 1
    assert outside >= 5
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    assert complete(Source(tmp_path / "m.onnx")).SerializeToString(deterministic=True) == wanted
    with pytest.raises(ModelError, match="no folder"):
        complete(Source(model.SerializeToString()))
    with pytest.raises(ModelError, match="not an ONNX model"):
        complete(Source(b"x" * 100))


def with_functions(bodies: dict[str, list[str]]) -> onnx.ModelProto:
    """The small model calling the first function; each is a chain of calls to others."""
    model = models.small_model()
    for name, calls in bodies.items():
        nodes = [
            helper.make_node(call, [f"v{i}"], [f"v{i + 1}"], domain="" if call == "Relu" else "mine")
            for i, call in enumerate(calls)
        ]
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("mine", 1)]
        model.functions.append(helper.make_function("mine", name, ["v0"], [f"v{len(calls)}"], nodes, opsets))
    model.opset_import.add(domain="mine", version=1)
    model.graph.node[1].CopyFrom(helper.make_node(next(iter(bodies)), ["conv"], ["act"], domain="mine"))
    return model


def test_functions_that_never_end():
    refused(with_functions({"f": ["g"], "g": ["f"]}), "calls itself")
    deep = {f"f{i}": [f"f{i + 1}"] * 2 for i in range(60)}
    refused(with_functions({**deep, "f60": ["Relu"]}), "more than 1000000 nodes")
    long = {f"f{i}": [f"f{i + 1}"] for i in range(3000)}
    refused(with_functions({**long, "f3000": ["Relu"]}), "nested too deeply")


def test_deep_nesting():
    graph = b"\x12\x46" + b"n" * 70  # GraphProto.name
    for _ in range(40):
        graph = message(1, message(5, message(6, graph)))  # GraphProto.node, NodeProto.attribute, AttributeProto.g
    refused(message(7, graph), "not an ONNX model: .*nested too deeply")


def message(field: int, content: bytes) -> bytes:
    size, length = bytearray(), len(content)
    while length > 127:
        size.append(length & 127 | 128)
        length >>= 7
    return bytes([field << 3 | 2, *size, length]) + content


def test_names_that_are_no_text():
    refused(GOOD.replace(b"relu1", b"rel\xff1"), "not an ONNX model: .*not UTF-8")
    refused(GOOD.replace(b"GlobalAveragePool", b"GlobalAverag\xc3Pool"), "not UTF-8")


def test_a_long_chain_is_no_problem():
    def chain(g):
        g.node.extend(helper.make_node("Relu", [f"v{i}" if i else "y"], [f"v{i + 1}"]) for i in range(5000))
        nodes = list(g.node)[::-1]
        g.ClearField("node")
        g.node.extend(nodes)

    assert len(read(changed(chain).SerializeToString()).nodes) == 5005


def survives(content: bytes) -> None:
    """Reading either works or raises ModelError."""
    try:
        graph = read(content)
    except ModelError as error:
        assert str(error).isprintable()  # noqa: PT017
    else:
        assert graph.outputs
        assert sum(array.nbytes for array in graph.constants.values()) <= 2 * len(content)


@settings(max_examples=300, deadline=None, database=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_flipped_bytes(flips):
    content = bytearray(GOOD)
    for at, value in flips:
        content[at] = value
    survives(bytes(content))


STRUCTURE = [i for i in range(len(GOOD)) if GOOD[i : i + 24].isascii()]
"""Where the small model holds structure rather than weights, roughly: flips there reach the checks."""


@settings(max_examples=300, deadline=None, database=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.sampled_from(STRUCTURE), st.integers(0, 255)), min_size=1, max_size=2))
def test_flipped_structure(flips):
    content = bytearray(GOOD)
    for at, value in flips:
        content[at] = value
    survives(bytes(content))


def test_every_truncation():
    for end in range(1, len(GOOD), 3):
        with pytest.raises(ModelError):
            read(GOOD[:end])
