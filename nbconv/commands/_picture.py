"""The page that ``nbconv profile --html`` writes: profile.html with the figures put in."""

from __future__ import annotations

import html
import json
import os
from typing import Any


def page(report: dict[str, Any], found: Any) -> str:
    """The page of a `nbconv.tools.profiler.Profile` and its JSON."""
    from nbconv.tools.profiler import lives

    values = [{"name": v.name, "at": v.offset, "bytes": v.nbytes, "begin": v.begin, "end": v.end} for v in lives(found.plan)]
    data = json.dumps({**report, "values": values}, allow_nan=False, ensure_ascii=False)
    # a script ends at "</script", and "<!--" begins a comment there: names in a model are anyone's
    data = data.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    with open(os.path.join(os.path.dirname(__file__), "profile.html"), encoding="utf-8") as f:
        head, rest = f.read().split("{{title}}")
    return head + html.escape(os.path.basename(report["model"])) + rest.replace("{{data}}", data)
