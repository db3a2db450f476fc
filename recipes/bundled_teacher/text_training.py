"""Train the bundled text encoder to understand captions, before the denoiser is conditioned on it.

Stable Diffusion's text encoder comes pretrained from CLIP and is frozen. This one is pretrained by
classification: its last tokens, which attend to the whole caption, are query tokens, and each has
to predict the content of one slot: what is mentioned first, second and third, what lies on which
side, and which background there is. From images alone, spatial relations are learned very slowly
(docs/experiments.md).
"""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from fewstep.world.captions import describe
from fewstep.world.scenes import BACKGROUNDS, COLOURS, SHAPES, SIZES
from fewstep.world.sentences import Claims, Mention, claims
from recipes.bundled_teacher.config import TeacherConfig, TextSettings
from recipes.bundled_teacher.optimising import LossAt, optimise, working_precision
from recipes.bundled_teacher.pool import scene_at, tokens
from recipes.bundled_teacher.slots import NUM_QUERY_TOKENS, SIDES, SLOTS

NOT_MENTIONED = None
ATTRIBUTES = {
    "count": (NOT_MENTIONED, 1, 2, 3),
    "size": (NOT_MENTIONED, *SIZES),
    "colour": (NOT_MENTIONED, *COLOURS),
    "shape": (NOT_MENTIONED, *SHAPES),
}
BACKGROUND = (NOT_MENTIONED, *BACKGROUNDS)


class CaptionClassifier(nn.Module):
    """A text encoder, and linear heads that classify every slot from its query token."""

    def __init__(self, text_encoder: CLIPTextModel) -> None:
        super().__init__()
        self.text_encoder = text_encoder
        width = text_encoder.config.hidden_size
        self.thing = nn.Linear(width, sum(map(len, ATTRIBUTES.values())))
        self.ground = nn.Linear(width, len(BACKGROUND))

    def forward(self, captions: Tensor) -> list[Tensor]:
        """Return logits [batch, class] of each attribute of each slot, and of the background."""
        hidden = self.text_encoder(captions).last_hidden_state[:, -NUM_QUERY_TOKENS:]
        sizes = [len(values) for values in ATTRIBUTES.values()]
        attributes = self.thing(hidden[:, :-1]).split(sizes, dim=2)
        things = [logits[:, slot] for slot in range(len(SLOTS)) for logits in attributes]
        return [*things, self.ground(hidden[:, -1])]


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
    classifier = CaptionClassifier(build_text_encoder(config.text, tokenizer))
    loss_at = losses_of(classifier, config, tokenizer)
    return optimise("text", classifier, loss_at, config.text, run, ema=0.99).text_encoder.eval()


def losses_of(
    classifier: CaptionClassifier, config: TeacherConfig, tokenizer: CLIPTokenizer
) -> LossAt:
    """Return the cross-entropy of all labels on a step's own captions, a few of them empty."""
    settings = config.text

    def loss_at(step: int) -> dict[str, Tensor]:
        texts = []
        for number in range(step * settings.batch_size, (step + 1) * settings.batch_size):
            scene, rng = scene_at(config.seed, "text", number)
            caption = describe(scene, rng)
            texts.append("" if rng.random() < settings.caption_dropout else caption)
        labels = torch.tensor([labels_of(text) for text in texts]).unbind(1)
        with working_precision(settings):
            predicted = classifier(tokens(tokenizer, texts))
        pairs = list(zip(predicted, labels, strict=True))
        loss = sum(
            (F.cross_entropy(logits.float(), label) for logits, label in pairs), torch.zeros(())
        )
        correct = [logits.argmax(1) == label for logits, label in pairs]
        return {"loss": loss, "all_right": torch.stack(correct).all(0).float().mean()}

    return loss_at


def labels_of(caption: str) -> list[int]:
    """Return the class of each attribute of each slot of a caption, and of the background.

    >>> labels = labels_of("a red heart above two stars on a mint background")
    >>> [values[label] for values, label in zip(ATTRIBUTES.values(), labels, strict=False)]
    [1, None, 'red', 'heart']
    """
    parsed = claims(caption) if caption else Claims(())
    mentions: dict[str, Mention] = dict(zip(SLOTS, parsed.mentions, strict=False))
    if parsed.relation:
        mentions.update(zip(SIDES[parsed.relation], parsed.mentions[-2:], strict=True))
    labels = [
        values.index(getattr(mentions.get(slot), name, NOT_MENTIONED))
        for slot in SLOTS
        for name, values in ATTRIBUTES.items()
    ]
    return [*labels, BACKGROUND.index(parsed.background)]
