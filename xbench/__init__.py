"""xbench: multilingual retrieval evaluation.

From Python, as on the command line::

    from pathlib import Path
    import xbench

    plan = xbench.Plan(cache=Path("cache"))
    result = xbench.evaluate(xbench.load_model("hash"), xbench.load_task("mini"), ["AP"], plan=plan)
    print(result.summary()["cross"]["AP"])
"""

import importlib
from typing import Any

# Imported on first use: `xbench --help` must not wait for NumPy and FAISS.
_HOMES = {
    "Options": "xbench.models:Options",
    "Plan": "xbench.evaluate:Plan",
    "Result": "xbench.results:Result",
    "XbenchError": "xbench.errors:XbenchError",
    "evaluate": "xbench.evaluate:evaluate",
    "load_model": "xbench.models:load",
    "load_task": "xbench.tasks:load_task",
    "write_result": "xbench.results:write_result",
}
__all__ = sorted(_HOMES)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'xbench' has no attribute {name!r}")
    module, _, attribute = _HOMES[name].partition(":")
    return getattr(importlib.import_module(module), attribute)
