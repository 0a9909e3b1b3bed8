"""Build, list and show kernels: the machine code that Numba compiles from nbconv/kernels, one library a family."""

from __future__ import annotations

import argparse
import os

from nbconv.commands._text import size, style, table

EPILOG = """\
A machine without numba runs on kernels built elsewhere: build them into a folder, copy it there, and
set NBCONV_KERNELS to it. NBCONV_TARGET selects a target to run on; NBCONV_CACHE the cache's folder.

examples:
  nbconv kernels list
  nbconv kernels build
  nbconv kernels build --target aarch64 --into kernels-for-pi
  nbconv kernels build --target cuda --into kernels-for-gpu
  nbconv kernels show pool --target x86-64-v3"""


def add(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    actions.add_parser("list", help="families, and which are compiled for which target")
    build = actions.add_parser("build", help="compile families, whether or not they are cached")
    build.add_argument("--target", metavar="NAME", help="the machine to compile for (default: this one)")
    build.add_argument("--into", metavar="DIR", help="write to DIR/<target> instead of the cache")
    build.add_argument("--family", action="append", metavar="NAME", help="only this family; may be repeated")
    show = actions.add_parser("show", help="print a family's assembly")
    show.add_argument("family")
    show.add_argument("--target", metavar="NAME", help="the machine to compile for (default: this one)")


def run(args: argparse.Namespace) -> int:
    return {"list": _list, "build": _build, "show": _show}[args.action](args)


def _list(args: argparse.Namespace) -> int:
    from nbconv.kernels import store
    from nbconv.kernels.cache import listing
    from nbconv.kernels.compile import families
    from nbconv.kernels.target import TARGETS, host, runs_here

    sources, versions = store.Sources(), store.toolchain()
    cached = {
        (m["family"], m["target"]) for m in listing() if m["current"] and (versions is None or m["toolchain"] == versions)
    }
    prebuilt = {
        (name, goal.name)
        for goal in TARGETS.values()
        for kind, folder in store.folders(goal)
        if kind != "cache" and os.path.isdir(folder)
        for name in families()
        if any(f == f"{name}-{sources.key(name, goal)}.json" for f in os.listdir(folder))
    }
    rows = [
        (name, *("prebuilt" if (name, t) in prebuilt else "cached" if (name, t) in cached else "-" for t in TARGETS))
        for name in families()
    ]
    table(("FAMILY", *TARGETS), rows)
    print()
    runs = ", ".join(name for name, goal in TARGETS.items() if runs_here(goal))
    print(f"this machine runs {runs or 'none of these'}; used: {host().name}")
    return 0


def _build(args: argparse.Namespace) -> int:
    from nbconv.kernels.compile import build, families
    from nbconv.kernels.target import host, target

    goal = target(args.target) if args.target else host()
    for name in args.family or ():
        if name not in families():
            raise ValueError(f"there is no family {name!r}: there are {', '.join(families())}")
    written = build(args.family, goal, args.into)
    folder = os.path.dirname(written[0])
    total = (
        sum(os.path.getsize(os.path.join(folder, name)) for name in os.listdir(folder) if name.endswith((".so", ".o")))
        if args.into
        else 0
    )
    what = f"{len(written)} kernel libraries for {goal.name} in {folder}"
    print(style(f"{what}, {size(total)}" if total else what, "bold"))
    if args.into:
        print(f"where they are to run: NBCONV_KERNELS={os.path.abspath(args.into)}")
    return 0


def _show(args: argparse.Namespace) -> int:
    from nbconv.kernels import store
    from nbconv.kernels.compile import families
    from nbconv.kernels.target import host, target

    if args.family not in families():
        raise ValueError(f"there is no family {args.family!r}: there are {', '.join(families())}")
    goal = target(args.target) if args.target else host()
    if store.toolchain() is None:
        raise ValueError("showing assembly compiles it, and numba is not installed: pip install numba")
    from nbconv.kernels import _numba

    print(_numba.assembly(args.family, goal), end="")
    return 0
