"""The command line ``mmface``: one module a command."""

from flows.cli.command_line import main

__all__ = ["main"]
