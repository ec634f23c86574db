"""The tasks of the miniature: a little world in plain English, by the standard library alone."""

from tl_taskneurons.builtin.mini.tasks import mini_names, mini_task

__all__ = ["mini_names", "mini_task"]
