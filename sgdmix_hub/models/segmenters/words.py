"""Models that are asked in words: SAM 3 and CLIPSeg."""

from __future__ import annotations

import torch

from .frames import Framed
from .instances import Instances, mean_inside
from .loading import CLIP, HALF, Family, Loaded, load_tokenizer

# SAM 3's own processor counts an instance from 0.5; a mean inside CLIPSeg's mask is never less.
WORD_FAMILIES = {
    "sam3": Family("Sam3Model", 1008, HALF, padded=False),
    "sam3_video": Family("Sam3Model", 1008, HALF, padded=False),  # how SAM 3 is published
    "sam3_lite_text": Family("Sam3LiteTextModel", 1008, HALF, padded=False),
    "clipseg": Family("CLIPSegForImageSegmentation", 352, CLIP, padded=False),
}
SAM3_TOKENS = 32  # what its processor pads texts to
CLIP_TOKENS = 77


class Sam3:
    """SAM 3, promptable concept segmentation: instances of a noun. A score is the presence of the
    noun in the image times the instance's own.
    """

    def __init__(self, model: Loaded, words: tuple[str, ...], device: torch.device):
        self.network = model.network.to(device)
        tokenizer = load_tokenizer(model)
        tokens = {
            "padding": "max_length",
            "max_length": SAM3_TOKENS,
            "truncation": True,
            "return_tensors": "pt",
        }
        self.prompts = [tokenizer([word], **tokens).to(device) for word in words]

    def find(self, pixel_values: torch.Tensor, images: list[Framed]) -> list[Instances]:
        """What there is of any of the words in each image, for pixel values (n, 3, side, side)."""
        vision = self.network.get_vision_features(pixel_values)
        logits, scores = [], []
        for prompt in self.prompts:
            size = (len(images), -1)
            outputs = self.network(
                vision_embeds=vision,
                input_ids=prompt.input_ids.expand(size),
                attention_mask=prompt.attention_mask.expand(size),
            )
            score = outputs.pred_logits.float().sigmoid()
            if outputs.presence_logits is not None:
                score = score * outputs.presence_logits.float().sigmoid()
            logits.append(outputs.pred_masks)
            scores.append(score)
        return [
            Instances(*found)
            for found in zip(torch.cat(logits, 1), torch.cat(scores, 1), strict=True)
        ]


class ClipSeg:
    """CLIPSeg: one map a word, of which the higher one counts in each pixel. It gives no score; the
    mean of the map inside its mask stands for one.
    """

    def __init__(self, model: Loaded, words: tuple[str, ...], device: torch.device):
        self.network = model.network.to(device)
        tokens = load_tokenizer(model)(
            list(words),
            padding="max_length",
            max_length=CLIP_TOKENS,
            truncation=True,
            return_tensors="pt",
        ).to(device)
        with torch.inference_mode():
            self.embeddings = self.network.get_conditional_embeddings(
                batch_size=len(words),
                input_ids=tokens.input_ids,
                attention_mask=tokens.attention_mask,
            )

    def find(self, pixel_values: torch.Tensor, images: list[Framed]) -> list[Instances]:
        """One instance an image, for pixel values (n, 3, side, side)."""
        maps = [
            self.network(
                pixel_values=pixel_values,
                conditional_embeddings=embedding.expand(len(images), -1),
            ).logits.view(len(images), 1, *pixel_values.shape[-2:])
            for embedding in self.embeddings
        ]
        logits = torch.cat(maps, 1).amax(1, keepdim=True)
        return [Instances(*found) for found in zip(logits, mean_inside(logits), strict=True)]
