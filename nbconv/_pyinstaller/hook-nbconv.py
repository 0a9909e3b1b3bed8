"""Operators, kernels and commands are imported by name, and so are the packages that compile and parse: none of them is seen
in the sources. The sources themselves go along: kernels are compiled from them, and what is kept in the cache is found by
their digest, as it is outside the application."""

from importlib.util import find_spec

from PyInstaller.utils.hooks import (  # pyright: ignore[reportMissingModuleSource]
    collect_data_files,
    collect_submodules,
    copy_metadata,
)


def _wanted(name: str) -> bool:
    """GPUs' kernels need numba-cuda; nothing runs these hooks."""
    if name.startswith("nbconv.kernels.cuda"):
        return find_spec("numba_cuda") is not None
    return not name.startswith("nbconv._pyinstaller")


module_collection_mode = {"nbconv": "pyz+py"}
hiddenimports = collect_submodules("nbconv", filter=_wanted)
datas = collect_data_files("nbconv")
for _name in ("numba", "llvmlite", "onnx", "PIL", "tflite", "flatbuffers"):
    if find_spec(_name) is not None:
        hiddenimports.append(_name)
        if _name in ("numba", "llvmlite"):
            datas += copy_metadata(_name)  # their versions
