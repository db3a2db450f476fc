"""Which versions of the libraries do not work together, or only in part."""

import importlib.metadata
from collections.abc import Iterator

from packaging.requirements import Requirement
from packaging.version import Version

KNOWN_BAD = (
    ("diffusers<0.31", "transformers>=5", "diffusers cannot be imported"),
    ("torch<2.5", "diffusers>=0.42", "diffusers cannot be imported"),
    ("transformers<5", "huggingface_hub>=1", "transformers cannot be imported"),
)
"""Pairs that their own metadata allows or that pip leaves installed, and what happens."""

LIMITED = (
    (
        "diffusers<0.41",
        "transformers>=5.6",
        "diffusers itself cannot load a LoRA that changes the text encoder; fewstep --lora can",
    ),
)
"""Pairs of which only a part does not work together."""

SLOW = (("peft<0.14", "adapters on a half-precision base run in fp32, which is slow"),)

FIX = "use the tested versions in constraints/"


def installed(name: str) -> Version | None:
    """Return the version of an installed library, or None."""
    try:
        return Version(importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return None


def matching(text: str) -> str:
    """Return the name and the installed version if it satisfies a requirement, else nothing."""
    requirement = Requirement(text)
    version = installed(requirement.name)
    fits = version is not None and requirement.specifier.contains(version)
    return f"{requirement.name} {version}" if fits else ""


def found(pairs: tuple[tuple[str, str, str], ...]) -> Iterator[tuple[str, str]]:
    """Yield of the pairs that are installed the first library's name, and both with the effect."""
    for one, other, effect in pairs:
        if (first := matching(one)) and (second := matching(other)):
            yield first.split()[0], f"{first} with {second}: {effect}"


def known_trouble(pairs: tuple[tuple[str, str, str], ...] = KNOWN_BAD + LIMITED) -> str | None:
    """Return which of the pairs are installed, with what to do, or None."""
    texts = [text for _, text in found(pairs)]
    return f"{'; '.join(texts)}; {FIX}" if texts else None
