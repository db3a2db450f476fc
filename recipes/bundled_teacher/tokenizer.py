"""The bundled teacher's tokenizer: every word of the world's captions is one token."""

from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

from transformers import CLIPTokenizer

from fewstep.models.tokenizer import LAST, write_tokenizer
from fewstep.world.sentences import all_words

LETTERS = "abcdefghijklmnopqrstuvwxyz"


def save_tokenizer(folder: Path, length: int) -> CLIPTokenizer:
    """Write the tokenizer into a folder, in CLIP's file format, and return it."""
    merges = [" ".join(pair) for pair in learn_merges(all_words())]
    return write_tokenizer(folder, LETTERS, merges, length)


def learn_merges(words: Iterable[str]) -> list[tuple[str, str]]:
    """Return byte-pair merges that turn each word into one token, the most frequent pair first.

    >>> learn_merges(["on", "son"])
    [('o', 'n</w>'), ('s', 'on</w>')]
    """
    spelt = [[*word[:-1], word[-1] + LAST] for word in words]
    merges = []
    while counts := Counter(pair for parts in spelt for pair in pairwise(parts)):
        merges.append(min(counts, key=lambda pair: (-counts[pair], pair)))
        spelt = [merged(parts, merges[-1]) for parts in spelt]
    return merges


def merged(parts: list[str], pair: tuple[str, str]) -> list[str]:
    """Return the parts of a word with each occurrence of a pair merged."""
    done: list[str] = []
    for part in parts:
        if done and (done[-1], part) == pair:
            done[-1] += part
        else:
            done.append(part)
    return done
