"""Results beside each other: `compare` says how they differ, `check` whether the second is a regression."""

from xbench.gate.compare import FLIPS, compare_results

__all__ = ["FLIPS", "compare_results"]
