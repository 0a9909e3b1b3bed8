"""The command line: ``nbconv <command> …``. Each command is a file of `nbconv.commands`, imported when it is invoked.

Exit codes: 0 all is well, 1 a check says no, 2 the command or a file it was given is wrong, 130 interrupted.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import shutil
import sys
import textwrap
from typing import Any, NoReturn

COMMANDS = {
    "demo": "classify a photograph with the bundled model, time it, and fine-tune it",
    "inspect": "what a model is made of: ops, shapes, parameters, FLOPs, memory",
    "check": "whether models load, plan and run",
    "doctor": "everything that nbconv lacks for a model, and whether this machine is set up well",
    "gradcheck": "whether a model's gradients are right, node by node",
    "finetune": "teach a model new classes, and write it",
    "run": "run a model on images or arrays",
    "bench": "time a model, beside onnxruntime if wanted",
    "profile": "where a model's time goes, step by step, against what the machine can do",
    "compare": "find the first node whose value differs from onnxruntime's",
    "kernels": "build, list and show compiled kernels",
    "cache": "list or clear compiled kernels and model structures",
}
"""Commands and what the overview says of them, in its order. Each module has ``add(parser)`` and ``run(args) -> int``."""

OVERVIEW = """\
examples:
  nbconv demo
  nbconv doctor model.onnx
  nbconv run model.onnx photo.jpg --mean 127,127,127 --std 128,128,128 --labels classes.txt --softmax
  nbconv bench model.onnx --threads 1,2 --compare onnxruntime

`nbconv COMMAND --help` says more. Exit code: 0 fine, 1 a check failed, 2 wrong usage or input."""


class Parser(argparse.ArgumentParser):
    """Errors of usage are one line; help fills the terminal, up to 100 columns."""

    def __init__(self, description: str | None = None, **options: Any) -> None:
        width = min(100, shutil.get_terminal_size((100, 24)).columns)
        paragraphs = (description or "").split("\n\n")
        super().__init__(
            description="\n\n".join(p if "\n  " in p else textwrap.fill(p, width) for p in paragraphs),
            formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, width=width, max_help_position=28),
            allow_abbrev=False,
            **options,
        )

    def error(self, message: str) -> NoReturn:
        complain(f"{message}; see `{self.prog} --help`")
        raise SystemExit(2)


def main(argv: list[str] | None = None) -> int:
    """Run a command line (by default the process's) and return its exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # an encoding without × or █ is no reason to fail
    try:
        code = _dispatch([word for word in argv if word != "--debug"], "--debug" in argv)
        sys.stdout.flush()
        return code
    except SystemExit as stop:  # argparse: --help, --version, usage
        return stop.code if isinstance(stop.code, int) else 0
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # whoever read the output is gone; the interpreter must not fail once more when it flushes at exit
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _dispatch(argv: list[str], debug: bool) -> int:
    if not argv or argv[0] not in COMMANDS:
        return _overview(argv)
    name = argv[0]
    import importlib

    try:
        module = importlib.import_module(f"nbconv.commands.{name}")
    except ModuleNotFoundError as error:
        if debug or error.name != f"nbconv.commands.{name}":
            raise
        complain(f"this installation has no command {name}")
        return 2
    parser = Parser(module.__doc__, prog=f"nbconv {name}")
    module.add(parser)
    args = parser.parse_args(argv[1:])
    _show_warnings()
    if debug:
        return module.run(args)
    return _guarded(module, args)


def _guarded(module: Any, args: argparse.Namespace) -> int:
    """The command's exit code; an error is one line and 2."""
    try:
        return module.run(args)
    except (ValueError, RuntimeError, ImportError) as error:  # ModelError and KernelError among them
        if isinstance(error, NotImplementedError):
            return _internal(error)
        complain(str(error) or type(error).__name__)
    except BrokenPipeError:
        raise
    except OSError as error:
        name = error.filename if error.filename is not None else ""
        complain(f"{os.fsdecode(name)}: {error.strerror}" if name and error.strerror else str(error))
    except MemoryError as error:
        complain(f"not enough memory: {error}".rstrip(": "))
    except Exception as error:
        return _internal(error)
    return 2


def _internal(error: Exception) -> int:
    complain(f"internal error, {type(error).__name__}: {error}; run again with --debug for the traceback, and report it")
    return 2


def _overview(argv: list[str]) -> int:
    from nbconv import __version__

    commands = "\n".join(f"  {name:9} {text}" for name, text in COMMANDS.items())
    parser = Parser(
        "Runs convolutional networks from ONNX and TensorFlow Lite files on kernels that Numba compiled.\n\n"
        f"commands:\n{commands}",
        prog="nbconv",
        usage="nbconv [-h] [--version] COMMAND …",
        epilog=OVERVIEW,
    )
    parser.add_argument("--version", action="version", version=f"nbconv {__version__}")
    parser.add_argument("--debug", action="store_true", help="show tracebacks; of any command")
    if argv and not argv[0].startswith("-"):
        import difflib

        near = difflib.get_close_matches(argv[0], COMMANDS, 1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(COMMANDS)}"
        complain(f"there is no command {argv[0]!r}: {hint}")
        return 2
    parser.parse_args(argv)
    parser.print_help()
    return 0 if argv else 2


def complain(text: str) -> None:
    """One line on standard error."""
    text = " ".join(str(text).split())
    try:
        print(f"nbconv: {text}", file=sys.stderr)
    except (OSError, ValueError, AttributeError):  # no standard error
        return


def _show_warnings() -> None:
    """What nbconv logs as a warning is a line on standard error."""
    import logging

    log = logging.getLogger("nbconv")
    if not any(type(h) is logging.StreamHandler for h in log.handlers):
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("nbconv: %(message)s"))
        handler.setLevel(logging.WARNING)
        log.addHandler(handler)


if __name__ == "__main__":
    sys.exit(main())
