"""CLIP's tokenizer as files: what single-file checkpoints leave out."""

import gzip
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

START, END, LAST = "<|startoftext|>", "<|endoftext|>", "</w>"
MERGES = Path(__file__).parent / "clip" / "merges.txt.gz"
PRINTABLE = (range(ord("!"), ord("~") + 1), range(0xA1, 0xAD), range(0xAE, 0x100))


def write_tokenizer(
    folder: Path, letters: Sequence[str], merges: Sequence[str], length: int, pad: str = END
) -> "CLIPTokenizer":
    """Write a tokenizer in CLIP's file format, and return it.

    The vocabulary follows from the rest: the letters, the letters that end a word, one part a merge
    (two parts with a space between), then the start and the end of a text.
    """
    folder.mkdir(parents=True, exist_ok=True)
    parts = [*letters, *(letter + LAST for letter in letters)]
    parts += [merge.replace(" ", "") for merge in merges]
    vocabulary = {part: number for number, part in enumerate([*dict.fromkeys(parts), START, END])}
    special = {"bos_token": START, "eos_token": END, "pad_token": pad, "unk_token": END}
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": length, **special}
    write_json(folder / "vocab.json", vocabulary)
    write_json(folder / "special_tokens_map.json", special)
    write_json(folder / "tokenizer_config.json", settings)
    lines = ["#version: 0.2", *merges]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    from transformers import CLIPTokenizer  # most callers only ask for names and constants

    return CLIPTokenizer.from_pretrained(folder)


def tokenizer_digest(tokenizer: "CLIPTokenizer") -> str:
    """Return the sha256 of a tokenizer's tokens and of how many it takes."""
    sha = hashlib.sha256()
    for token, number in sorted(tokenizer.get_vocab().items()):
        sha.update(f"{token} {number}\n".encode(errors="surrogateescape"))
    sha.update(f"{tokenizer.model_max_length}\n".encode())
    return sha.hexdigest()


def write_clip_tokenizer(folder: Path, pad: str = END) -> "CLIPTokenizer":
    """Write the tokenizer of CLIP, with its 49,408 tokens and 77 places; SD 2 pads with "!".

    Source: Radford et al. 2021 (CLIP), github.com/openai/CLIP.
    """
    merges = gzip.decompress(MERGES.read_bytes()).decode().splitlines()
    return write_tokenizer(folder, clip_letters(), merges, length=77, pad=pad)


def clip_letters() -> list[str]:
    """Return CLIP's 256 letters, one a byte: printable ones first, the others as higher ones."""
    printable = [chr(code) for codes in PRINTABLE for code in codes]
    return printable + [chr(256 + n) for n in range(256 - len(printable))]


def write_json(path: Path, content: dict) -> None:
    """Write an object as JSON, one entry a line."""
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
