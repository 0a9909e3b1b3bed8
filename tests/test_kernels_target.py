"""Which target a machine gets: from its features, its system and NBCONV_TARGET."""

from __future__ import annotations

import sys

import pytest

from nbconv.kernels import target as targets
from nbconv.kernels.target import TARGETS, Target, host, runs_here, target

HASWELL = "fpu sse sse2 cx16 lahf_lm popcnt pni sse4_1 sse4_2 ssse3 abm avx avx2 bmi1 bmi2 f16c fma movbe xsave".split()  # noqa: SIM905
SKYLAKE_X = [*HASWELL, "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"]


@pytest.fixture
def machine(monkeypatch):
    monkeypatch.delenv("NBCONV_TARGET", raising=False)
    monkeypatch.setattr(targets, "_OS", "linux")
    monkeypatch.setattr(targets, "TARGETS", {name: t._replace(os="linux") for name, t in TARGETS.items()})

    def is_a(name: str, features=()) -> None:
        monkeypatch.setattr(targets, "_detected", [(name, frozenset(features))])

    return is_a


@pytest.mark.parametrize(
    ("name", "features", "wanted"),
    [
        ("x86_64", SKYLAKE_X, "x86-64-v4"),
        ("x86_64", HASWELL, "x86-64-v3"),
        ("x86_64", [f for f in SKYLAKE_X if f != "avx512bw"], "x86-64-v3"),  # Knights Landing
        ("x86_64", [f for f in SKYLAKE_X if f != "fma"], "x86-64"),
        ("x86_64", [], "x86-64"),
        ("aarch64", ["fp", "asimd"], "aarch64"),
    ],
)
def test_host_is_the_best_target_whose_features_are_all_there(machine, name, features, wanted):
    machine(name, features)
    assert host().name == wanted


def test_a_machine_without_kernels_is_refused(machine):
    machine("s390x")
    with pytest.raises(ValueError, match="s390x"):
        host()


def test_nbconv_target_chooses_among_what_the_cpu_can_run(machine, monkeypatch):
    machine("x86_64", HASWELL)
    monkeypatch.setenv("NBCONV_TARGET", "x86-64")
    assert host().name == "x86-64"
    monkeypatch.setenv("NBCONV_TARGET", "x86-64-v4")
    with pytest.raises(ValueError, match=r"x86-64-v4.*avx512bw.*avx512f"):
        host()
    monkeypatch.setenv("NBCONV_TARGET", "aarch64")
    with pytest.raises(ValueError, match=r"aarch64.*x86_64"):
        host()
    monkeypatch.setenv("NBCONV_TARGET", "x86-64-v9")
    with pytest.raises(ValueError, match=r"x86-64-v9.*x86-64-v3"):
        host()


@pytest.mark.parametrize(
    ("features", "most", "wanted"),
    [
        ([*HASWELL, "avx_vnni"], "", "vnni"),
        ([*HASWELL, "avx_vnni"], "none", ""),
        (HASWELL, "vnni", ""),
        ([*SKYLAKE_X, "avx512_vnni"], "", "vnni"),
        ([*SKYLAKE_X, "avx_vnni"], "", ""),
        ([*SKYLAKE_X, "avx512_vnni", "amx_int8"], "", "amx"),
        ([*SKYLAKE_X, "avx512_vnni", "amx_int8"], "vnni", "vnni"),
        ([*SKYLAKE_X, "avx512_vnni", "amx_int8"], "none", ""),
    ],
)
def test_products_of_bytes_are_used_where_the_machine_has_them(machine, monkeypatch, features, most, wanted):
    machine("x86_64", features)
    monkeypatch.setattr(targets, "_tiles_permitted", lambda: True)
    monkeypatch.setenv("NBCONV_DOT", most)
    assert host().dot == wanted
    monkeypatch.setenv("NBCONV_DOT", "sdot")
    with pytest.raises(ValueError, match="NBCONV_DOT=sdot"):
        host()


def test_code_for_another_system_does_not_run_here(machine):
    machine("x86_64", SKYLAKE_X)
    assert runs_here(target("x86-64-v3")._replace(os="linux"))
    assert not runs_here(target("x86-64-v3")._replace(os="windows"))


def test_targets_fit_their_registers():
    registers = {"x86-64": 16, "x86-64-v3": 16, "x86-64-v4": 32, "aarch64": 32}
    for t in TARGETS.values():
        assert isinstance(t, Target)
        tile = t.tile()
        assert tile.rows * tile.vectors + tile.vectors + 1 <= registers[t.name]  # sums, a row of b, one value of a


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/cpuinfo")
def test_features_come_from_the_first_record(tmp_path):
    path = tmp_path / "cpuinfo"
    record = "processor\t: {}\nmodel name\t: flags: none\nflags\t\t: fpu {}\nbugs\t\t: x\n\n"
    path.write_text(record.format(0, "avx " * 3000 + "avx2") + record.format(1, "avx512f"))
    assert targets._linux_features(str(path)) == {"fpu", "avx", "avx2"}
    path.write_text("processor: 0\nFeatures\t: fp asimd\n")
    assert targets._linux_features(str(path)) == {"fp", "asimd"}
    path.write_text("flags")
    assert targets._linux_features(str(path)) == frozenset()
    assert targets._linux_features(str(tmp_path / "missing")) == frozenset()


def test_macos_names_are_linux_names():
    intel = "fpu sse3 ssse3 cx16 sse4.1 sse4.2 movbe popcnt xsave osxsave avx1.0 f16c fma bmi1 avx2 bmi2 lahf lzcnt"
    assert TARGETS["x86-64-v3"].needs <= targets._from_macos(set(intel.split()))


def test_an_element_type_without_a_matrix_kernel_is_named():
    with pytest.raises(ValueError, match="x86-64-v3 has no matrix kernel for int8, but for float32"):
        target("x86-64-v3").tile("int8")
