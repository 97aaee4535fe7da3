"""The command line ``mmface``: one module for each group of commands."""

from flows.cli.command_line import main

__all__ = ["main"]
