"""Words of any script, for ROUGE-L."""

import unicodedata


class Words:
    """Cuts a text into words, as ``rouge_score`` asks for it.

    Letters, digits and the marks on them make words, in lower case, and all else parts them; of
    Chinese characters and kana each is a word. For ASCII that is what ``rouge_score`` does itself,
    which drops all other letters. A text without any word is one.
    """

    def tokenize(self, text: str) -> list[str]:
        """Return the words of a text."""
        parted = "".join(_parted(character) for character in text.lower())
        return parted.split() or text.split()


def _parted(character: str) -> str:
    if character.isascii():
        return character if character.isalnum() else " "
    if unicodedata.category(character)[0] not in "LMN":
        return " "
    name = unicodedata.name(character, "")
    alone = name.startswith(("CJK", "HIRAGANA", "KATAKANA"))
    return f" {character} " if alone else character
