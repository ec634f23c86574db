r"""The mini tokenizer: one token a word, a newline is a token, spaces belong to the words.

Every word carries the space before it (`` good``), also at the start of a string or a line, where
the space is put there first. So the tokens of a prompt followed by the tokens of ``" answer"`` are
the tokens of both together, and decoding gives the text back (with that leading space).
"""

import re
from collections.abc import Iterable
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

_PIECE = r" ?[A-Za-z]+:?|\n|[^A-Za-z \n]| "
SPECIAL = ("<pad>", "<bos>", "<eos>", "<unk>")


def split_words(text: str) -> list[str]:
    """Split a text into the pieces that become tokens (each word with its leading space)."""
    spaced = re.sub(r"(^|\n)(?=[A-Za-z])", r"\1 ", text)
    return re.findall(_PIECE, spaced)


def build_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """Build the tokenizer whose vocabulary is every piece of the texts.

    Args:
        texts: Texts that together hold every word of the little world.

    Returns:
        A tokenizer with padding, BOS (put first by default), EOS and unknown tokens. Ids are
        the special tokens, then the pieces in alphabetical order.
    """
    pieces = sorted({piece for text in texts for piece in split_words(text)} | {"\n"})
    vocabulary = {piece: i for i, piece in enumerate((*SPECIAL, *pieces))}
    made: Any = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    made.normalizer = normalizers.Replace(Regex(r"(?<![^\n])(?=[A-Za-z])"), " ")
    made.pre_tokenizer = pre_tokenizers.Split(Regex(_PIECE), "isolated")
    made.decoder = decoders.Sequence([decoders.Fuse(), decoders.Replace("\n ", "\n")])
    made.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A $B", special_tokens=[("<bos>", vocabulary["<bos>"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>",
        unk_token="<unk>", padding_side="right", model_max_length=256,
        clean_up_tokenization_spaces=False,
        # TransformerLens builds a tokenizer anew from its name unless it knows of the BOS.
        add_bos_token=True, name_or_path="mini",
    )  # fmt: skip
