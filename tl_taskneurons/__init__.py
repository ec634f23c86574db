"""Find the MLP neurons of a language model that carry a task, and test what they do.

A plugin for TransformerLens: every function takes a ``HookedTransformer`` or a
``TransformerBridge``. It implements Leng & Xiong, COLING 2025 (arXiv 2407.06488), and goes beyond
it.

Names are imported when they are first used, so that ``import tl_taskneurons`` and its plots load
neither torch nor TransformerLens; ``__init__.pyi`` says where each name lives.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

__version__ = "0.1.0"
