"""Train the bundled text encoder to understand captions, before the denoiser listens to it.

Stable Diffusion's text encoder comes ready from CLIP and is frozen. This one is taught by
questions: its last tokens, which have seen the whole caption, have to know what is mentioned first,
second and third, what lies on which side, and which background there is, each token one of these.
Learnt from images alone, who is above whom takes very long to notice (docs/experiments.md).
"""

# transformers hands out its configs and outputs without types
# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false
# pyright: reportArgumentType=false

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from fewstep.world.captions import Claims, Mention, claims, describe
from fewstep.world.scenes import BACKGROUNDS, COLOURS, SHAPES, SIZES
from recipes.bundled_teacher.config import TeacherConfig, TextSettings
from recipes.bundled_teacher.optimising import LossAt, optimise, working_precision
from recipes.bundled_teacher.places import ASKED, PLACES, SIDES
from recipes.bundled_teacher.pool import scene_at, tokens

UNSAID = None
KINDS = {
    "count": (UNSAID, 1, 2, 3),
    "size": (UNSAID, *SIZES),
    "colour": (UNSAID, *COLOURS),
    "shape": (UNSAID, *SHAPES),
}
GROUNDS = (UNSAID, *BACKGROUNDS)


class Reader(nn.Module):
    """A text encoder, and linear maps that answer all questions from its last tokens."""

    def __init__(self, text_encoder: CLIPTextModel) -> None:
        super().__init__()
        self.text_encoder = text_encoder
        width = text_encoder.config.hidden_size
        self.thing = nn.Linear(width, sum(map(len, KINDS.values())))
        self.ground = nn.Linear(width, len(GROUNDS))

    def forward(self, captions: Tensor) -> list[Tensor]:
        """Return the logits of every question's answers, each [batch, answers]."""
        heard = self.text_encoder(captions).last_hidden_state[:, -ASKED:]
        kinds = self.thing(heard[:, :-1]).split([len(known) for known in KINDS.values()], dim=2)
        things = [kind[:, place] for place in range(len(PLACES)) for kind in kinds]
        return [*things, self.ground(heard[:, -1])]


def build_text_encoder(settings: TextSettings, tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """Return an untrained text encoder for a tokenizer."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=settings.width,
            intermediate_size=4 * settings.width,
            projection_dim=settings.width,
            num_hidden_layers=settings.layers,
            num_attention_heads=settings.heads,
            max_position_embeddings=settings.length,
            hidden_act="quick_gelu",
            initializer_factor=1.0,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def train_text_encoder(config: TeacherConfig, run: Path, tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """Train the text encoder, or continue, and return its moving average."""
    torch.manual_seed(config.seed)  # initial weights
    reader = Reader(build_text_encoder(config.text, tokenizer))
    loss_at = losses_of(reader, config, tokenizer)
    return optimise("text", reader, loss_at, config.text, run, ema=0.99).text_encoder.eval()


def losses_of(reader: Reader, config: TeacherConfig, tokenizer: CLIPTokenizer) -> LossAt:
    """Return the cross-entropy of all answers on a step's own captions, a few of them empty."""
    settings = config.text

    def loss_at(step: int) -> dict[str, Tensor]:
        texts = []
        for number in range(step * settings.batch_size, (step + 1) * settings.batch_size):
            scene, rng = scene_at(config.seed, "text", number)
            caption = describe(scene, rng)
            texts.append("" if rng.random() < settings.caption_dropout else caption)
        right = torch.tensor([answers(text) for text in texts]).unbind(1)
        with working_precision(settings):
            read = reader(tokens(tokenizer, texts))
        loss = sum(
            (F.cross_entropy(said.float(), said_rightly)
             for said, said_rightly in zip(read, right, strict=True)),
            torch.zeros(()),
        )  # fmt: skip
        each = [said.argmax(1) == truth for said, truth in zip(read, right, strict=True)]
        return {"loss": loss, "all_right": torch.stack(each).all(0).float().mean()}

    return loss_at


def answers(caption: str) -> list[int]:
    """Return the number of the right answer to each question that is asked of a caption.

    >>> said = answers("a red heart above two stars on a mint background")
    >>> [known[number] for known, number in zip(KINDS.values(), said, strict=False)]
    [1, None, 'red', 'heart']
    """
    told = claims(caption) if caption else Claims(())
    mentioned: dict[str, Mention] = dict(zip(PLACES, told.mentions, strict=False))
    if told.relation:
        mentioned.update(zip(SIDES[told.relation], told.mentions[-2:], strict=True))
    said = [
        known.index(getattr(mentioned.get(place), kind, UNSAID))
        for place in PLACES
        for kind, known in KINDS.items()
    ]
    return [*said, GROUNDS.index(told.background)]
