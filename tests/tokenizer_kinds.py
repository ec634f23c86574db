r"""Small tokenizers of the kinds that differ in how answers and newlines become tokens.

``llama3`` and ``qwen`` join punctuation with a newline (``".\n"``); ``llama2`` and ``gemma`` write
spaces as ``▁`` and fall back to bytes, and ``llama2`` puts one before every text; ``gpt2`` and
``bloom`` have tokens of bytes and keep newlines apart.
"""

import json
from collections.abc import Callable, Iterable
from typing import Any

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)
from transformers import PreTrainedTokenizerFast

_SPECIAL = ["<unk>", "<bos>", "<eos>", "<turn>", "<endturn>"]
_GPT2 = r" ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_LLAMA3 = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_BLOOM = r" ?[^\s.,!?]+|\s|[.,!?]"
TEMPLATE = (
    "{% for m in messages %}<turn>{{ m['role'] }}\n{{ m['content'] }}<endturn>\n{% endfor %}"
    "{% if add_generation_prompt %}<turn>assistant\n{% endif %}"
)


def _of_bytes(pattern: str, normalizer: Any = None) -> Callable[[], Tokenizer]:
    def make() -> Tokenizer:
        raw: Any = Tokenizer(models.BPE())
        if normalizer is not None:
            raw.normalizer = normalizer
        raw.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(pattern), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        raw.decoder = decoders.ByteLevel()
        return raw

    return make


def _of_pieces(prefix: bool) -> Callable[[], Tokenizer]:
    def make() -> Tokenizer:
        raw: Any = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
        replace = normalizers.Replace(" ", "▁")
        raw.normalizer = (
            normalizers.Sequence([normalizers.Prepend("▁"), replace]) if prefix else replace
        )
        raw.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
        strip = [decoders.Strip(" ", 1, 0)] if prefix else []
        raw.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
        )
        return raw

    return make


KINDS: dict[str, Callable[[], Tokenizer]] = {
    "gpt2": _of_bytes(_GPT2),
    "llama3": _of_bytes(_LLAMA3),
    "qwen": _of_bytes(_LLAMA3, normalizers.NFC()),
    "bloom": _of_bytes(_BLOOM),
    "llama2": _of_pieces(prefix=True),
    "gemma": _of_pieces(prefix=False),
}


def tokenizer_of(kind: str, texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """Train a tokenizer of a kind on a few texts; its chat turns end with ``<endturn>``."""
    raw: Any = KINDS[kind]()
    pieces = kind in ("llama2", "gemma")
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=_SPECIAL,
        initial_alphabet=[] if pieces else pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    lines = [text.replace("\n", " ") if pieces else text for text in texts]
    raw.train_from_iterator(lines * 9, trainer)
    if pieces:  # the bytes that unknown characters fall back to, a newline among them
        model = json.loads(raw.to_str())["model"]
        for byte in range(256):
            model["vocab"][f"<0x{byte:02X}>"] = len(model["vocab"])
        merges = [tuple(pair) for pair in model["merges"]]
        raw.model = models.BPE(model["vocab"], merges, unk_token="<unk>", byte_fallback=True)
    if kind == "gemma":
        raw.add_tokens([AddedToken("\n", normalized=False)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, unk_token="<unk>", bos_token="<bos>", eos_token="<eos>",
        pad_token="<eos>",
    )  # fmt: skip
    tokenizer.chat_template = TEMPLATE
    return tokenizer
