"""The command line: each command is a typed function that calls one function of a room."""

from ctfm.commands.running import run

__all__ = ["run"]
