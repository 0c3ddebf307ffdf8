"""`xbench demo`."""

from typing import Any

import click

from xbench.cli.options import evaluate_and_show, result_options


@click.command("demo")
@result_options
def command(**options: Any) -> None:
    """The whole job on the bundled task `mini` with the `hash` encoder: no network, under a minute."""
    evaluate_and_show("hash", ("mini",), offline=True, **options)
