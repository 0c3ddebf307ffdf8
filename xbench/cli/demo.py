"""`xbench demo`."""

from typing import Any

import click

from xbench.cli.evaluating import evaluate_and_show
from xbench.cli.options import result_options, show_tables


@click.command("demo")
@result_options
def command(**options: Any) -> None:
    """The whole job on the bundled task `mini`: no network, under a minute.

    With two models that come along: `hash`, which compares letters, and `static`, trained by `xbench train static`.
    """
    from xbench.tables import side_by_side

    results = [
        result for name in ("hash", "static") for result in evaluate_and_show(name, ("mini",), offline=True, **options)
    ]
    if options["format_"] != "json":
        show_tables([side_by_side(results, ["AP", "RR", "RankDistance"])], options["format_"])
