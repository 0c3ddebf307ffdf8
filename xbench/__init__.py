"""xbench: multilingual retrieval evaluation.

From Python, as on the command line::

    from pathlib import Path

    from xbench.evaluate import Plan, evaluate
    from xbench.models import load
    from xbench.tasks import load_task

    result = evaluate(load("hash"), load_task("mini"), ["AP"], plan=Plan(cache=Path("cache")))
    print(result.summary()["cross"]["AP"])
"""
