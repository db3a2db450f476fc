"""Prompts as tokens: how many a text encoder reads, and what becomes of a longer prompt."""

import re
import warnings
from bisect import bisect
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import accumulate, pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from transformers import CLIPTokenizer

from fewstep.console import counted
from fewstep.errors import PromptWarning
from fewstep.models.base import ModelFamily, PromptLength
from fewstep.models.tokenizer import write_clip_tokenizer

START_AND_END = 2
"""The tokens that the text encoder reads beside those of a prompt."""

PLANNED_CHUNKS = 3
"""How many chunks a plan counts for each prompt, where there may be more than one: 225 tokens."""

QUOTED = 60
"""The most characters of a text that a message quotes."""


def prompt_limit(tokenizer: CLIPTokenizer) -> int:
    """Return how many tokens of a prompt are read at once: 75 of CLIP's 77."""
    return tokenizer.model_max_length - START_AND_END


def tokens_of(tokenizer: CLIPTokenizer, prompts: Sequence[str]) -> list[list[int]]:
    """Return each prompt's tokens without start and end; one of several vectors is all of them."""
    prompts = list(prompts)
    if tokenizer.get_added_vocab().keys() - set(tokenizer.all_special_tokens):
        from diffusers.loaders import TextualInversionLoaderMixin  # few tokenizers need it

        prompts = TextualInversionLoaderMixin().maybe_convert_prompt(prompts, tokenizer)
    return tokenizer(prompts, add_special_tokens=False, verbose=False)["input_ids"]


def prompt_lengths(tokenizer: CLIPTokenizer, prompts: Sequence[str]) -> list[PromptLength]:
    """Return how long each prompt is, and its end that is beyond the limit, as it is written."""
    limit = prompt_limit(tokenizer)
    return [
        PromptLength(len(own), limit, _beyond(tokenizer, prompt) if len(own) > limit else "")
        for prompt, own in zip(prompts, tokens_of(tokenizer, prompts), strict=True)
    ]


def _beyond(tokenizer: CLIPTokenizer, prompt: str) -> str:
    """Return the end of a prompt that is not read: no token of CLIP's holds a white space."""
    starts = [word.start() for word in re.finditer(r"\S+", prompt)] or [0]
    words = [prompt[start:end] for start, end in pairwise([*starts, len(prompt)])]
    ends = list(accumulate(map(len, tokens_of(tokenizer, words)), initial=0))
    first = min(bisect(ends, prompt_limit(tokenizer)), len(words)) - 1  # that is not read whole
    word, left = words[first], prompt_limit(tokenizer) - ends[first]
    cuts = range(1, len(word))  # of Chinese, which has no spaces, a part is read
    read = bisect(cuts, left, key=lambda cut: len(tokens_of(tokenizer, [word[:cut]])[0]))
    return prompt[starts[first] + read :]


def clip_lengths(prompts: Sequence[str]) -> list[PromptLength]:
    """Return how long each prompt is for CLIP, the text encoder of Stable Diffusion 1 and 2."""
    return prompt_lengths(_clip_tokenizer(), prompts)


@cache
def _clip_tokenizer() -> CLIPTokenizer:
    with TemporaryDirectory(prefix="fewstep-") as folder:
        return write_clip_tokenizer(Path(folder))


def chunks_of(tokenizer: CLIPTokenizer, prompts: Sequence[str]) -> list[list[list[int]]]:
    """Return each prompt's chunks, one at least, each a full input of the text encoder.

    A chunk is the start, up to 75 tokens of the prompt, the end, and padding as the model pads.
    """
    limit = prompt_limit(tokenizer)
    special: Any = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
    start, end, fill = special
    return [
        [
            [start, *part, end, *[fill] * (limit - len(part))]
            for part in (own[at : at + limit] for at in range(0, max(1, len(own)), limit))
        ]
        for own in tokens_of(tokenizer, prompts)
    ]


def planned_prompt(family: ModelFamily) -> str:
    """Return a prompt of the length that a plan counts: one chunk, or `PLANNED_CHUNKS`."""
    limit = family.prompt_lengths([""])[0].limit
    return "a " * limit * (PLANNED_CHUNKS if family.long_prompts == "chunks" else 1)


def cut_notice(
    family: ModelFamily, prompts: Iterable[str], noun: str = "prompt", fix: str = "shorten it"
) -> str | None:
    """Return a sentence about the prompts that lose their end, and what is lost; None for none."""
    prompts = list(prompts)
    if family.long_prompts == "chunks" or not prompts:
        return None
    texts = list(dict.fromkeys(prompts))
    lengths = dict(zip(texts, family.prompt_lengths(texts), strict=True))
    cut = sorted((p for p in prompts if lengths[p].beyond), key=lambda p: -lengths[p].tokens)
    if not cut:
        return None
    longest, number = lengths[cut[0]], len(cut)
    of_all = f"{number} of {counted(len(prompts), noun)} {'is' if number == 1 else 'are'} cut: "
    return (
        f"{of_all if len(prompts) > 1 else ''}{quoted(cut[0])} has {longest.tokens} tokens, more "
        f"than the {longest.limit} that the text encoder reads, and loses "
        f"{quoted(longest.beyond)}; {fix}"
    )


def warn_of_cut(family: ModelFamily, prompts: Iterable[str]) -> None:
    """Give a PromptWarning where prompts lose their end."""
    fix = "shorten it, or train a student with model.long_prompts = 'chunks', which reads all"
    if notice := cut_notice(family, prompts, fix=fix):
        warnings.warn(notice, PromptWarning, stacklevel=3)


def quoted(text: str) -> str:
    """Return a text in quotes, without the middle of a long one.

    >>> quoted(" a star "), len(quoted("a" * 100))
    ("'a star'", 63)
    """
    text, half = text.strip(), QUOTED // 2
    return repr(text if len(text) <= QUOTED else f"{text[:half]}…{text[-half:]}")
