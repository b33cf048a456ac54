"""`mutoscope VERB`: finds the verb, runs it, and turns errors into one line and an exit code."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module

from mutoscope import __version__
from mutoscope.core.errors import InputError, MutoscopeError

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
HELP = ["-h", "--help"]
ABOUT = """A laboratory for video generation: assemble, train and compare, from one recipe.

Exit codes: 0 done; 1 the work failed; 2 the input is wrong; 3 the run folder is in use; 4 the data is unusable;
75 interrupted and resumable. --debug, anywhere, shows the traceback.
"""


def main(arguments: list[str] | None = None) -> None:
    """The entry point. Always exits."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    given = [word for word in given if word != "--debug"]
    try:
        with _interruptible():
            code = _run(given)
            sys.stdout.flush()
    except MutoscopeError as error:
        if debug:
            raise
        _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        _fail("interrupted; the same command continues", 75)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception as error:
        if hasattr(error, "format_message"):  # a usage error of click, or of the click within typer
            _fail(_line(error.format_message()), 2)  # type: ignore[attr-defined]
        if debug:
            raise
        _fail(f"{type(error).__name__}: {_line(error) or 'no message'} (--debug shows where)", 1)
    sys.exit(code if isinstance(code, int) else 0)


@contextmanager
def _interruptible() -> Iterator[None]:
    """The first SIGTERM or SIGINT ends a verb where it is, as one that can be resumed; a second one at once.

    Training has a way of its own, to a safe point. Files are written whole or not at all, so any place will do.
    """
    asked = False

    def stop(number: int, frame: object) -> None:
        nonlocal asked
        if asked:
            os._exit(128 + number)
        asked = True
        raise KeyboardInterrupt

    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):  # else someone else's
                before[number] = signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _run(given: list[str]) -> object:
    """Runs a verb, importing its module alone; gives its exit code where it has one."""
    verb, *rest = given or ["--help"]
    if verb in ("-h", "--help"):
        print(_help())
        return 0
    if verb == "--version":
        print(f"mutoscope {__version__}")
        return 0
    if verb not in VERBS:
        raise InputError(field="verb", problem="there is no such verb", got=verb, allowed=list(VERBS))
    import typer

    module = import_module(f"mutoscope.commands.{'import_' if verb == 'import' else verb}")
    app = typer.Typer(add_completion=False, rich_markup_mode=None, context_settings={"help_option_names": HELP})
    app.command(verb, help=module.__doc__)(module.run)
    command = typer.main.get_command(app)
    try:
        # Not `command.main`, which has its own idea of interrupts, closed pipes and exit codes.
        with command.make_context(f"mutoscope {verb}", rest) as context:
            return command.invoke(context)
    except typer.Exit as done:
        return done.exit_code


def _help() -> str:
    width = max(map(len, VERBS))
    verbs = "\n".join(f"  {verb:{width}}  {does}" for verb, does in VERBS.items())
    return f"Usage: mutoscope VERB ...\n\n{ABOUT}\nVerbs:\n{verbs}\n\n`mutoscope VERB --help` says more of each."


def _line(said: object) -> str:
    return " ".join(str(said).split())


def _fail(message: str, code: int) -> None:
    print(f"mutoscope: {message}", file=sys.stderr)
    sys.exit(code)
