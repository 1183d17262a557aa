"""WikiText-2 as tokens of a byte-pair encoding trained on its training part."""

import gzip
from typing import NamedTuple

import numpy as np
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as Decoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer

from experiments.data import files

_FILES = {"train": "train.articles-permuted", "valid": "valid", "test": "test"}


class Corpus(NamedTuple):
    """Tokens of each part, and how many bytes of the text a token of the test part stands for."""

    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray
    bytes_per_token: float


def load(vocabulary: int, characters: int | None = None) -> tuple[Corpus, Tokenizer]:
    """The corpus in a vocabulary of so many tokens; ``characters`` shortens each part.

    Raises:
        DataFileError: the text is not in the folder that WEIGHTFILTER_DATA names.
        ValueError: a vocabulary that does not hold all bytes.
    """
    if vocabulary < 257:
        raise ValueError(f"vocabulary: expected at least 257 tokens, one for each byte, got {vocabulary}; raise it")
    texts = {part: _read(name)[:characters] for part, name in _FILES.items()}
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.decoder = Decoder()
    trainer = BpeTrainer(
        vocab_size=vocabulary, initial_alphabet=ByteLevel.alphabet(), show_progress=False, special_tokens=[]
    )
    tokenizer.train_from_iterator(texts["train"].splitlines(keepends=True), trainer)
    encoded = {part: np.asarray(tokenizer.encode(text).ids, np.int32) for part, text in texts.items()}
    return Corpus(**encoded, bytes_per_token=len(texts["test"].encode()) / len(encoded["test"])), tokenizer


def windows(tokens: np.ndarray, length: int, count: int) -> np.ndarray:
    """So many windows [count, length], spread evenly over the text."""
    starts = np.linspace(0, len(tokens) - length, count).astype(int)
    return np.stack([tokens[start : start + length] for start in starts])


def _read(name: str) -> str:
    path = files.own(f"text/wikitext-2-{name}.txt.gz")
    return gzip.decompress(path.read_bytes()).decode()
