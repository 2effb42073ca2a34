"""The command line. Each command lives in `alignkit.commands`; torch is imported only by those that need it."""

import signal
import sys
from types import FrameType
from typing import Any

import click

from alignkit import __version__
from alignkit.deprecations import show_deprecations
from alignkit.errors import AlignkitError, Terminated, out_of_memory, said_by
from alignkit.joining import end_process
from alignkit.redact import redact
from alignkit.terminal import say, show_bug

INTERRUPTED = 130
COMMANDS = ("run", "check", "plan", "plugins", "new", "schema", "report")


class _Group(click.Group):
    """Built-in commands are imported when they are used; plugins may add more (`alignkit_commands`)."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*COMMANDS, *_plugin_commands(ctx)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in COMMANDS:
            from importlib import import_module

            command: click.Command = import_module(f"alignkit.commands.{cmd_name}").command
            return command
        return _plugin_commands(ctx).get(cmd_name)


def _plugin_commands(ctx: click.Context) -> dict[str, click.Command]:
    """Made once for a command line: `--help` asks for each command."""
    found: dict[str, click.Command] = ctx.meta.setdefault(__name__, {})
    if found:
        return found
    from alignkit.manager import PluginManager

    manager = PluginManager()
    manager.load()
    for registered in manager.all("command"):
        name = registered.component.name
        if name in COMMANDS or name in found:
            click.echo(f"{registered.described} cannot be used: there already is a command of this name", err=True)
            continue
        try:
            found[name] = registered.build(registered.component.config(), None)
        except AlignkitError as error:  # a broken plugin must not take the other commands along
            click.echo(error.what, err=True)
        except Exception as error:
            click.echo(f"{registered.described} cannot be used: {said_by(error)}", err=True)
    return found


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="alignkit")
def cli() -> None:
    """Align language models with human or AI preferences.

    Start with: alignkit run quickstart
    """


def command_line() -> None:
    """The process `alignkit`."""
    end_process(main)


def main(argv: list[str] | None = None) -> None:
    """Runs a command and turns errors into a message and an exit status."""
    signal.signal(signal.SIGTERM, _terminate)
    sys.excepthook = show_bug
    show_deprecations()
    try:
        status = cli.main(args=argv, prog_name="alignkit", standalone_mode=False)
    except AlignkitError as error:
        word = "paused" if error.exit_status == 3 else "error"
        _fail(f"{word}: {error}", error.exit_status)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except (click.Abort, KeyboardInterrupt):
        _fail(f"interrupted{_how_to_go_on(argv)}", INTERRUPTED)
    except Terminated as error:
        _fail(f"terminated{_how_to_go_on(argv)}", int(error.code or 0))
    except Exception as error:
        fault = _machines_fault(error)
        if fault is None:
            raise
        _fail(f"error: {fault}", fault.exit_status)
    if isinstance(status, int):  # click hands back what ctx.exit(status) was given
        sys.exit(status)


def _how_to_go_on(argv: list[str] | None) -> str:
    """Of a run, whose state is saved."""
    command = (sys.argv[1:] if argv is None else argv)[:1]
    return "; run the same command again (without --from) to go on" if command == ["run"] else ""


def _machines_fault(error: Exception) -> AlignkitError | None:
    """The message for a lack of memory or a disk that refuses, outside of a run too; None for any other error."""
    from alignkit.engine.memory import memory_fault
    from alignkit.engine.storage import storage_error

    return storage_error(error) or (memory_fault(error) if out_of_memory(error) else None)


def _terminate(signum: int, frame: FrameType | None) -> Any:
    raise Terminated


def _fail(message: str, status: int) -> None:
    say(redact(message), err=True)
    sys.exit(status)


if __name__ == "__main__":
    command_line()
