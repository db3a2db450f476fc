"""Prompts that are longer than the text encoder reads: they are cut, or read in chunks."""

from dataclasses import replace

import pytest
import torch

from fewstep.diffusion.conditioning import MASK
from fewstep.diffusion.guidance import guided
from fewstep.models.loading import load_model
from fewstep.models.prompts import clip_lengths, cut_notice
from tests.tiny import tiny_pipeline

LIMIT = 22  # of the tiny pipeline, whose text encoder has 24 positions
LONG = "a red heart above a blue star " * 5


def family(version=1, long_prompts="chunks"):
    return load_model(tiny_pipeline(version), long_prompts=long_prompts)


def reference(family, prompt):
    """Return the hidden states [1, 24 k, dim] of a prompt, chunk by chunk, as A1111 has them."""
    tokenizer = family.tokenizer
    own = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    states = []
    while True:
        part, own = own[:LIMIT], own[LIMIT:]
        fill = [tokenizer.pad_token_id] * (LIMIT - len(part))
        ids = [tokenizer.bos_token_id, *part, tokenizer.eos_token_id, *fill]
        with torch.no_grad():
            states.append(family.text_encoder(torch.tensor([ids])).last_hidden_state)
        if not own:
            return torch.cat(states, 1)


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("repeats", [0, 1, 3, 4, 8, 20])
def test_a_prompt_is_its_chunks_one_after_another(version, repeats):
    model, prompt = family(version), "a red heart above a blue star " * repeats
    cond = model.encode_prompts([prompt])
    expected = reference(model, prompt)
    assert cond["text"].shape == expected.shape
    assert expected.shape[1] == 24 * max(1, -(-7 * repeats // LIMIT))
    torch.testing.assert_close(cond["text"], expected)
    assert cond[MASK].all()


@pytest.mark.parametrize("version", [1, 2])
def test_prompts_that_differ_after_the_limit_alone_are_one_where_they_are_cut(version):
    ends = [LONG + "red", LONG + "blue"]
    cut, chunks = (family(version, how).encode_prompts(ends)["text"] for how in ("cut", "chunks"))
    assert torch.equal(cut[0], cut[1])
    assert (chunks[0] - chunks[1]).abs().max() > 0.01


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("prompt", ["", "a red heart", LONG])
def test_a_prompt_is_cut_as_diffusers_cuts_it(version, prompt):
    model = family(version, "cut")
    theirs, _ = model.pipeline(model.network).encode_prompt(prompt, "cpu", 1, False)
    assert torch.equal(model.encode_prompts([prompt])["text"], theirs)


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("prompt", ["", "a red heart", "red " * LIMIT])
def test_a_short_prompt_is_the_same_to_the_bit_in_both_settings(version, prompt):
    cut, chunks = (family(version, how).encode_prompts([prompt]) for how in ("cut", "chunks"))
    assert torch.equal(cut["text"], chunks["text"])


def predicted(model, prompts, scale=1.0, negative=""):
    """Return what the network predicts for each prompt from the same latents."""
    torch.manual_seed(0)
    x_t = torch.randn(1, 4, 8, 8).expand(len(prompts), -1, -1, -1)
    uncond = model.encode_prompts([negative])
    denoiser = guided(model.denoiser(model.network), uncond, scale)
    t = torch.full((len(prompts),), 700)
    with torch.no_grad():
        return denoiser(x_t, t, model.encode_prompts(prompts)).eps


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("scale", "negative"), [(1.0, ""), (3.0, ""), (3.0, LONG * 3)])
def test_a_prompt_is_alone_what_it_is_in_a_batch(dtype, scale, negative):
    model = replace(family(), dtype=dtype)
    prompts = ["a star", LONG, LONG * 2]
    together = predicted(model, prompts, scale, negative)
    alone = torch.cat([predicted(model, [prompt], scale, negative) for prompt in prompts])
    tolerance = {} if dtype == torch.float32 else {"atol": 0.05, "rtol": 0.05}
    torch.testing.assert_close(together, alone, **tolerance)
    assert (together[1] - together[0]).abs().max() > 1e-3


def test_guidance_is_that_of_two_calls_where_prompts_have_other_lengths():
    model = family()
    with_prompt, without = predicted(model, [LONG]), predicted(model, [""])
    expected = without + 3 * (with_prompt - without)
    torch.testing.assert_close(predicted(model, [LONG], 3.0), expected)


def test_what_pads_a_prompt_is_not_looked_at():
    model = family()
    cond = model.encode_prompts(["a star", LONG])
    assert cond[MASK].sum(1).tolist() == [24, 48]
    loud = {"text": torch.where(cond[MASK][..., None], cond["text"], 100.0), MASK: cond[MASK]}
    x_t, t = torch.randn(2, 4, 8, 8), torch.tensor([700, 20])
    denoise = model.denoiser(model.network)
    with torch.no_grad():
        assert torch.equal(denoise(x_t, t, cond).eps, denoise(x_t, t, loud).eps)


@pytest.mark.parametrize("end", ["Above a RING, at 14:30", " ring\n of  14", "東京タワー"])
def test_a_prompts_length_is_in_tokens_and_its_end_is_quoted_as_it_is_written(end):
    clip = "a star " * 37 + "a "  # 75 tokens
    long, short = clip_lengths([clip + end, clip])
    assert (long.limit, long.beyond) == (75, end.strip())
    assert (short.tokens, short.beyond) == (75, "")
    tiny = family(1, "cut").prompt_lengths([LONG + "above a ring"])[0]
    assert (tiny.tokens, tiny.limit) == (38, LIMIT)
    assert tiny.beyond.endswith("star above a ring")


def test_of_a_text_without_spaces_the_characters_that_are_not_read_are_quoted():
    text = "".join(chr(code) for code in range(0x4E00, 0x4E00 + 120))
    length = clip_lengths([text])[0]
    read = text.removesuffix(length.beyond)
    assert 0 < len(read) < len(text)
    assert clip_lengths([read])[0].tokens <= 75 < clip_lengths([read + length.beyond[0]])[0].tokens


@pytest.mark.parametrize("word", ["lighthouse", "fifty-one", "x" * 500])
def test_what_is_lost_of_any_text_that_is_too_long_is_its_end(word):
    text = " ".join([word] * 80)
    length = clip_lengths([text])[0]
    assert length.tokens > length.limit
    assert length.beyond
    assert text.endswith(length.beyond)


def test_a_notice_counts_and_quotes_what_is_cut():
    prompts = ["a star", LONG + "at the end", LONG, LONG]
    assert cut_notice(family(1, "cut"), prompts[:1]) is None
    assert cut_notice(family(), prompts) is None
    notice = cut_notice(family(1, "cut"), prompts) or ""
    assert notice.startswith("3 of 4 prompts are cut: 'a red heart above a blue star")
    assert "' has 41 tokens, more than the 22 that the text encoder reads, and loses '" in notice
    assert "at the end'; shorten" in notice
