"""Learning tasks one after another: the paper's NCFT and W-NCFT (section 4), rivals, and more.

Names are imported when they are first used, so that tables of methods load without torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
