"""One HTML file that shows a run: its facts, tables and figures, and its neurons to look through.

``write_report`` makes it. The page needs no network and nothing beside it.
"""

from tl_taskneurons.report.page import write_report

__all__ = ["write_report"]
