"""The embedded model's tokenizer: one token a byte, and an end token.

It is a Qwen2Tokenizer without merges, because that is what ``AutoTokenizer`` builds for a folder whose config says qwen2,
whatever class the folder names. So the saved folder comes back the same through ``AutoTokenizer`` and through
``PreTrainedTokenizerFast``. Like every Qwen2 tokenizer it normalises to NFC: text in NFC round-trips byte for byte.
"""

from __future__ import annotations

from tokenizers.pre_tokenizers import ByteLevel
from transformers import Qwen2Tokenizer

END = "<|endoftext|>"


def embedded_tokenizer() -> Qwen2Tokenizer:
    """256 byte tokens and ``<|endoftext|>``, which ends and pads."""
    vocabulary = {symbol: number for number, symbol in enumerate(sorted(ByteLevel.alphabet()))}
    vocabulary[END] = len(vocabulary)
    tokenizer: Qwen2Tokenizer = Qwen2Tokenizer(vocab=vocabulary, merges=[], eos_token=END, pad_token=END, unk_token=END)
    return tokenizer
