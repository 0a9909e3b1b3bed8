"""Options and fixtures that all tests share."""

from __future__ import annotations

import os

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--target", help="run the kernels of this target (x86-64, x86-64-v3, …) instead of the machine's best")


def pytest_configure(config: pytest.Config) -> None:
    target = config.getoption("--target")
    if target:
        os.environ["NBCONV_TARGET"] = target


def pytest_report_header(config: pytest.Config) -> str:
    from nbconv.kernels.target import host

    return f"kernels for {host().name}"


@pytest.fixture
def cli(capsys):
    """Runs a command line: (exit code, standard output, standard error)."""
    from nbconv.cli import main

    def run(*words):
        code = main([str(word) for word in words])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def small(tmp_path):
    """The file of a small model."""
    from tests.models import small_model

    path = tmp_path / "small.onnx"
    path.write_bytes(small_model().SerializeToString())
    return path
