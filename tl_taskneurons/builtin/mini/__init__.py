"""The miniature: tasks of a little world in plain English, and small models that speak it.

The tasks need nothing but the standard library; models are folders for Hugging Face.
"""

from tl_taskneurons.builtin.mini.folders import mini_model_folder, mini_model_names, save_mini_model
from tl_taskneurons.builtin.mini.tasks import mini_names, mini_task

__all__ = ["mini_model_folder", "mini_model_names", "mini_names", "mini_task", "save_mini_model"]
