"""The bundled teacher's own small vocabulary: every word of the world's captions is one token."""

import json
import re
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

from transformers import CLIPTokenizer

from fewstep.bundled.captions import all_words

LETTERS = "abcdefghijklmnopqrstuvwxyz"
START, END, LAST = "<|startoftext|>", "<|endoftext|>", "</w>"


def save_tokenizer(folder: Path, length: int) -> CLIPTokenizer:
    """Write the tokenizer into a folder, in CLIP's file format, and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    merges = learn_merges(all_words())
    parts = [*LETTERS, *(letter + LAST for letter in LETTERS), *("".join(pair) for pair in merges)]
    vocabulary = {part: number for number, part in enumerate([*dict.fromkeys(parts), START, END])}
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    special = {"bos_token": START, "eos_token": END, "pad_token": END, "unk_token": END}
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": length, **special}
    write_json(folder / "vocab.json", vocabulary)
    write_json(folder / "special_tokens_map.json", special)
    write_json(folder / "tokenizer_config.json", settings)
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return CLIPTokenizer.from_pretrained(folder)


def learn_merges(words: Iterable[str]) -> list[tuple[str, str]]:
    """Return byte-pair merges that make one token of each word: the most frequent pair first.

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
    """Return the parts of a word with each occurrence of a pair made one part."""
    done: list[str] = []
    for part in parts:
        if done and (done[-1], part) == pair:
            done[-1] += part
        else:
            done.append(part)
    return done


def unknown_words(prompt: str) -> list[str]:
    """Return the words of a prompt that the teacher was never told, each once.

    The tokenizer itself spells such words in letters, which the teacher has not learnt to read:
    refuse them.

    >>> unknown_words("A red elephant on a white background, please")
    ['elephant', 'please']
    """
    known = set(all_words())
    words = re.findall(r"[^\W_]+", prompt.lower())
    return [word for word in dict.fromkeys(words) if word not in known]


def write_json(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
