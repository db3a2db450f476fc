"""The words that the bundled teacher knows."""

import re

from fewstep.world.captions import all_words


def unknown_words(prompt: str) -> list[str]:
    """Return the words of a prompt that the teacher was not trained on, each once.

    The tokenizer would spell such words in letters, which the teacher has not learnt to read.

    >>> unknown_words("A red elephant on a white background, please")
    ['elephant', 'please']
    """
    known = set(all_words())
    words = re.findall(r"[^\W_]+", prompt.lower())
    return [word for word in dict.fromkeys(words) if word not in known]
