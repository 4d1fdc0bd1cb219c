"""SAM 2, which is asked with boxes: of a column of the dataset, or of a detector that is asked in
words (Grounding DINO, OWLv2).
"""

from __future__ import annotations

import torch

from .frames import Box, Framed, pixel_mask
from .instances import GOOD_SHARE, Instances
from .loading import CLIP, IMAGENET, Family, Loaded, load_tokenizer

# SAM 2 states the IoU of its mask: below one half a mask fails. The detectors' scores are those of
# `post_process_grounded_object_detection`.
BOX_FAMILIES = {
    "sam2": Family("Sam2Model", 1024, IMAGENET, padded=False),
    "sam2_video": Family("Sam2Model", 1024, IMAGENET, padded=False),  # how SAM 2.1 is published
}
DETECTOR_FAMILIES = {
    "grounding-dino": Family("GroundingDinoForObjectDetection", 800, IMAGENET, True, 0.25),
    "mm-grounding-dino": Family("MMGroundingDinoForObjectDetection", 800, IMAGENET, True, 0.25),
    "owlv2": Family("Owlv2ForObjectDetection", 960, CLIP, True, 0.1),
}
MOST_BOXES = 4  # of a detector in an image, the best ones: SAM makes a mask of each
OWL_TOKENS = 16  # what OWLv2's processor pads texts to


class Sam2:
    """SAM 2 or 2.1: one mask a box. A score is the IoU that the model predicts for its own mask,
    times the box's score.
    """

    def __init__(self, model: Loaded, device: torch.device):
        self.network = model.network.to(device)

    def find(
        self, pixel_values: torch.Tensor, boxes: torch.Tensor, scores: torch.Tensor
    ) -> list[Instances]:
        """Masks of the boxes (n, k, 4) in pixels of the input, with scores (n, k), for pixel values
        (n, 3, side, side).
        """
        outputs = self.network(pixel_values=pixel_values, input_boxes=boxes, multimask_output=False)
        scores = scores * outputs.iou_scores[:, :, 0].float().clamp(0, 1)
        return [
            Instances(*found) for found in zip(outputs.pred_masks[:, :, 0], scores, strict=True)
        ]


def column_boxes(images: list[Framed], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """The images' own boxes, float32 (n, 1, 4), with the score 1, or 0 for an image without one."""
    side = float(len(images[0].pixels))
    whole: Box = (0.0, 0.0, side, side)
    boxes = [whole if image.box is None else image.box for image in images]
    scores = [float(image.box is not None) for image in images]
    return torch.tensor(boxes, device=device)[:, None], torch.tensor(scores, device=device)[:, None]


class Detector:
    """Boxes of what the words name, the best few an image."""

    def __init__(self, model: Loaded, words: tuple[str, ...], device: torch.device):
        self.network, self.input, self.device = model.network.to(device), model.input, device
        tokenizer = load_tokenizer(model)
        self.is_owl = model.family == "owlv2"
        if self.is_owl:
            texts, options = list(words), {"padding": "max_length", "max_length": OWL_TOKENS}
        else:
            texts, options = [". ".join(word.lower() for word in words) + "."], {}
        self.tokens = tokenizer(texts, truncation=True, return_tensors="pt", **options).to(device)

    def boxes(
        self, pixel_values: torch.Tensor, images: list[Framed]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Boxes, float32 (n, 4, 4), as shares of the input's side, and their scores (n, 4), zero
        for those that score less than half of the image's best.
        """
        repeat = (len(images), 1)
        text = {
            "input_ids": self.tokens.input_ids.repeat(repeat),
            "attention_mask": self.tokens.attention_mask.repeat(repeat),
        }
        if not self.is_owl:
            text["pixel_mask"] = pixel_mask(images, self.input, self.device)
            if "token_type_ids" in self.tokens:
                text["token_type_ids"] = self.tokens.token_type_ids.repeat(repeat)
        outputs = self.network(pixel_values=pixel_values, **text)
        scores = outputs.logits.float().sigmoid().amax(-1)
        best = scores.argsort(dim=1, descending=True, stable=True)[:, :MOST_BOXES]
        scores = scores.gather(1, best)
        boxes = outputs.pred_boxes.float().gather(1, best[..., None].expand(-1, -1, 4))
        middle, half = boxes[..., :2], boxes[..., 2:] / 2
        corners = torch.cat([middle - half, middle + half], -1)
        return corners, torch.where(scores >= GOOD_SHARE * scores[:, :1], scores, 0)
