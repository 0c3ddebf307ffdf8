"""The command line: parse, call one function, print. Commands are imported when they are used."""

import importlib
import logging
import os
import sys
import traceback

import click

from xbench.errors import StorageError, XbenchError

COMMANDS = {
    "bias": "How far the language of a passage decides its rank, in a stored result.",
    "check": "The CI gate: fail on a regression.",
    "compare": "Compare stored results: intervals, paired tests, what could have been seen.",
    "encode": "Encode the texts of tasks: vectors in the cache, or in shards.",
    "data": "Get and check the sources of tasks.",
    "demo": "The whole job on the bundled task: no network, under a minute.",
    "export": "Write TREC runs and qrels of a stored result.",
    "leaderboard": "Render, extend and verify boards of stored results.",
    "run": "Evaluate a model on tasks; write the results, print the tables.",
    "score": "Score a TREC run of any system.",
    "study": "Train variants of models, test and compare them.",
    "train": "Train a reference model by hybrid batches.",
    "tasks": "List the tasks, or the cells of one.",
}


class _Lazy(click.Group):
    """Knows its commands by name and help; imports the one that is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"xbench.cli.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name]) for name in self.list_commands(ctx)])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS:
            from xbench.errors import unknown

            raise unknown("command", args[0], COMMANDS)
        return super().resolve_command(ctx, args)


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, help="Show the traceback of an error; also after the command.")
@click.version_option(package_name="xbench")
def cli(debug: bool) -> None:
    """How well does a retrieval model work in one language, across languages and from a pool of all?

    Exit codes: 0 done, 1 regression, 2 wrong usage, 3 bad input data, 4 unsafe input, 5 bad model output,
    6 storage fault, 7 integrity mismatch, 10 incomplete, 70 a bug in xbench, 130 interrupted.
    """


def main(arguments: list[str] | None = None) -> None:
    """Run a command; an error is one line on standard error and its exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in arguments
    logging.basicConfig(format="xbench: %(message)s", stream=sys.stderr)
    logging.getLogger("xbench").setLevel(logging.INFO)
    sys.exit(_run([a for a in arguments if a != "--debug"], debug))


def _run(arguments: list[str], debug: bool) -> int:
    try:
        code = cli.main(arguments, prog_name="xbench", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except BrokenPipeError:
        # The reader of our output left (`xbench tasks | head`): nobody to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return 2
    except OSError as error:
        if debug:
            traceback.print_exc()
        _say(f"{error.filename or 'standard output'}: {error.strerror or error}")
        return StorageError.exit_code
    except (KeyboardInterrupt, click.Abort):
        _say("interrupted; what is done is kept, and the same command goes on from there")
        return 130
    except click.ClickException as error:
        _say(error.format_message())
        return 2
    except XbenchError as error:
        if debug:
            traceback.print_exc()
        _say(str(error))
        return error.exit_code
    except Exception as error:
        if debug:
            traceback.print_exc()
        _say(f"a bug in xbench: {type(error).__name__}: {error}; run again with --debug and report it")
        return 70


def _say(message: str) -> None:
    line = " ".join(message.split())  # one line, whatever a path or a foreign message holds
    click.echo(f"xbench: {''.join(c if c.isprintable() else repr(c)[1:-1] for c in line)}", err=True)
