"""How the mini models of ``tl_taskneurons.builtin`` were made: corpus, training and scores.

Run from the root of the repository: ``python -m minis.train``. It lies beside the package because
nobody who uses the models needs it.
"""
