"""`mutoscope VERB`: finds the verb, runs it, and turns errors into one line and an exit code."""

from __future__ import annotations

import os
import sys
from importlib import import_module

import click
import typer

from mutoscope.core.errors import MutoscopeError

VERBS = {
    "train": "Train a recipe, or continue its run.",
    "sample": "Generate video with a run.",
    "evaluate": "Score a run on a split.",
    "compare": "Run a study, swap parts of a recipe, or compare finished runs.",
    "status": "Show how far a run or a study is.",
    "report": "Write the report of a study or a run again.",
    "describe": "Count a recipe's parameters, FLOPs, tokens and memory, without allocating weights.",
    "tasks": "List what a run can be asked for.",
    "list": "List the parts there are.",
    "lineage": "List the systems of the lineage and their recipes.",
    "plugins": "List the plugins, and why a broken one is broken.",
    "check": "Run the contract checks on a plugin.",
    "new": "Write a plugin file for a new part, and its test.",
    "schema": "Print the JSON schema of recipes, for editors.",
    "export": "Save a run as from_pretrained folders.",
    "import": "Convert a published or pickled checkpoint, once.",
    "doctor": "Show versions, devices, threads, and what is missing.",
}
"""What each verb does; its function is `run` in the module of its name (`import_`, since import is a keyword)."""


class Verbs(click.Group):
    """Imports a verb's module only when that verb is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        module = import_module(f"mutoscope.commands.{'import_' if cmd_name == 'import' else cmd_name}")
        app = typer.Typer(add_completion=False, rich_markup_mode=None)
        app.command(cmd_name, help=module.__doc__)(module.run)
        command = typer.main.get_command(app)
        command.name = cmd_name
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]):
        if args and args[0] not in VERBS and not args[0].startswith("-"):
            from mutoscope.core.errors import InputError

            raise InputError(field="verb", problem="there is no such verb", got=args[0], allowed=list(VERBS))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl(list(VERBS.items()))


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="mutoscope")
def app() -> None:
    """A laboratory for video generation: assemble, train and compare, from one recipe.

    Exit codes: 0 done; 1 the work failed; 2 the input is wrong; 3 the run folder is in use; 4 the data is unusable;
    75 interrupted and resumable. --debug, anywhere, shows the traceback.
    """


def main(arguments: list[str] | None = None) -> None:
    """The entry point. Always exits."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    given = [word for word in given if word != "--debug"]
    try:
        code = app(given, prog_name="mutoscope", standalone_mode=False)
    except MutoscopeError as error:
        if debug:
            raise
        _fail(str(error), error.exit_code)
    except click.exceptions.Exit as done:
        sys.exit(done.exit_code)
    except click.ClickException as usage:
        _fail(usage.format_message().replace("\n", " "), 2)
    except click.Abort:
        _fail("aborted", 1)
    except KeyboardInterrupt:
        _fail("interrupted; the same command continues", 75)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception as error:
        if debug:
            raise
        _fail(f"{type(error).__name__}: {' '.join(str(error).split()) or 'no message'} (--debug shows where)", 1)
    sys.exit(code if isinstance(code, int) else 0)


def _fail(message: str, code: int) -> None:
    print(f"mutoscope: {message}", file=sys.stderr)
    sys.exit(code)
