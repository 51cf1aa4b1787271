"""`dataplatform …`: a table of commands, each imported only when it is called."""

import importlib
import sys

import click

from .contracts.errors import ContractError
from .errors import PlatformError

COMMANDS: dict[str, tuple[str, str]] = {
    # name: (module:attribute, the line in `dataplatform --help`)
    "up": ("dataplatform.local.commands:up", "Start the local stack, or the named part of it."),
    "down": ("dataplatform.local.commands:down", "Stop the local stack."),
    "status": ("dataplatform.local.commands:status", "What runs, and where."),
    "logs": ("dataplatform.local.commands:logs", "What the services print."),
    "demo": ("dataplatform.local.commands:demo", "The whole platform on simulated traffic."),
    "settings": ("dataplatform.local.commands:settings", "Every setting with its value, source and meaning."),
    "catch-up": ("dataplatform.catch_up:command", "Close hours and materialise all that is due."),
    "contracts": ("dataplatform.contracts.commands:contracts", "Check, build and compare the contracts."),
    "events": ("dataplatform.events.commands:events", "Import, validate and replay events."),
    "collector": ("dataplatform.collector.commands:collector", "Run the collector in the foreground."),
    "cdc": ("dataplatform.cdc.commands:cdc", "Change data capture from MongoDB."),
    "lineage": ("dataplatform.lineage.commands:lineage", "Column lineage, impact and personal data."),
    "fraud": ("dataplatform.fraud.commands:fraud", "Features, policies, parameters and backtests."),
}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called, so that each starts fast."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name not in COMMANDS:
            return None
        module, attribute = COMMANDS[cmd_name][0].split(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


@click.command(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="dataplatform")
def cli() -> None:
    """Events, change data capture, lineage, fraud decisions and service levels on BigQuery, as one Dagster project."""


def main() -> None:
    """Entry point: errors that a user can mend are printed without a traceback, with exit status 1."""
    try:
        cli(prog_name="dataplatform")
    except (PlatformError, ContractError) as error:
        click.echo(str(error), err=True)
        sys.exit(1)
