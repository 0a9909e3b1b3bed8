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
