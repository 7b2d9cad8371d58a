"""CLIP's byte-pair tokenizer as a `tokenizer.json`, from the merges that open_clip ships."""

from __future__ import annotations

import gzip

START = "<start_of_text>"
END = "<end_of_text>"
_NUM_MERGES = 49152 - 256 - 2
# open_clip's pattern. (?i:…) because its ignore-case flag lets an apostrophe and a long s (ſ) be one token.
_PATTERN = rf"{START}|{END}|(?i:'s|'t|'re|'ve|'m|'ll|'d)|\p{{L}}+|\p{{N}}|[^\s\p{{L}}\p{{N}}]+"


def tokenizer_json() -> str:
    """CLIP's tokenizer in the format of the `tokenizers` library.

    Text must be cleaned first, as `scclip_rt.vocabulary.tokenizer.clean` does (fix encoding, unescape HTML, collapse
    white space, lower case): that part of open_clip's tokenizer cannot be written down in the file. Ids then equal
    open_clip's, but for some letters that only the newer of the two libraries' Unicode tables knows.

    Returns:
        JSON: byte-level pairs with the suffix `</w>`, framed by the tokens 49406 (start) and 49407 (end).
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors

    vocabulary, merges = _vocabulary()
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PATTERN), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.add_special_tokens([START, END])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A {END}", special_tokens=[(START, vocabulary[START]), (END, vocabulary[END])]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return str(tokenizer.to_str())


def _vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Token ids and merges, in the order of CLIP's training: bytes, bytes that end a word, merges, specials."""
    from open_clip.tokenizer import bytes_to_unicode, default_bpe

    with gzip.open(default_bpe(), "rt", encoding="utf-8") as file:
        lines = file.read().split("\n")[1 : 1 + _NUM_MERGES]
    merges = [(first, second) for first, second in (line.split() for line in lines)]
    alphabet = list(bytes_to_unicode().values())
    words = [*alphabet, *(c + "</w>" for c in alphabet), *(a + b for a, b in merges), START, END]
    return {word: index for index, word in enumerate(words)}, merges
