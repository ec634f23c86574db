"""The command line, and what its commands do with a run folder."""

from tl_taskneurons.cli.app import main

__all__ = ["main"]
