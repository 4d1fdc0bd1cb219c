"""Class activation maps: what a classifier looked at for the true label, through pytorch-grad-cam. float32 (64, 64) in [0, 1]."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence

import cv2
import numpy as np
import torch
from PIL import Image
from torch import nn

from .data import square
from .errors import UserError, first_line
from .saliency import MAP_SIZE

# pytorch-grad-cam's class by method. The library brings scikit-learn, a second of every program's start: it is imported where a CAM is
# asked for.
CAMS = {
    "grad-cam": "GradCAM",
    "grad-cam++": "GradCAMPlusPlus",
    "grad-cam-elementwise": "GradCAMElementWise",
    "xgrad-cam": "XGradCAM",
    "hires-cam": "HiResCAM",
    "layer-cam": "LayerCAM",
    "eigen-cam": "EigenCAM",
    "eigen-grad-cam": "EigenGradCAM",
    "score-cam": "ScoreCAM",
    "ablation-cam": "AblationCAM",
}
SMALLEST_GRID = 7
BATCH = 16


class CamSaliency:
    """One of pytorch-grad-cam's methods on any transformers image classifier."""

    def __init__(self, folder: str, method: str, device: torch.device, layer: str | None = None, input_size: int | None = None):
        """`folder` holds the classifier; `method` is a key of `CAMS`; `layer` names the module whose activations are read (default: the
        last stage of a convolutional network, the last block's first norm of a ViT); without `input_size` the classifier's own is taken,
        enlarged until the activations have at least 7 x 7 cells, where it takes larger images. Raises `UserError` for a layer that does not
        exist or gives no activations, and for an input size that the classifier does not take.
        """
        # a second of the start of a program that needs no classifier
        from transformers import AutoImageProcessor, AutoModelForImageClassification

        try:
            self.model = AutoModelForImageClassification.from_pretrained(folder, use_safetensors=True).to(device).eval()
            self.processor = AutoImageProcessor.from_pretrained(folder)
        except (OSError, ValueError) as error:
            raise UserError(f"cannot load the classifier: {first_line(error)}") from error
        self.device = device
        self.layer_name = layer or default_layer(self.model)
        modules = dict(self.model.named_modules())
        if self.layer_name not in modules:
            raise UserError(
                f"saliency_layer {self.layer_name!r} is no module of the classifier, which has for example {default_layer(self.model)!r}"
            )
        self.layer = modules[self.layer_name]
        self.size = input_size or self._fine_enough(processor_size(self.processor))
        shape = self._activations(self.size)
        self.grid = tuple(to_feature_map(torch.empty(shape)).shape[-2:])
        self.model.requires_grad_(False)
        self.layer.register_forward_hook(_cut_graph)  # before the library's own hooks, which then see the cut
        self.cam = library_cam(method, _Logits(self.model), self.layer, convolutional=len(shape) == 4)

    def _fine_enough(self, size: int) -> int:
        """An input size, from `size` upwards, that gives 7 x 7 cells and hardly more; `size` where no larger one gives more."""
        cells = self._cells(size)
        if cells >= SMALLEST_GRID:
            return size
        enough = -(-size * SMALLEST_GRID // cells)
        with contextlib.suppress(UserError):
            if self._cells(enough) > cells:
                return next((larger for larger in range(enough, 2 * enough) if self._cells(larger) >= SMALLEST_GRID), size)
        return size

    def _cells(self, size: int) -> int:
        """The shorter side of the maps for images of this size."""
        return min(to_feature_map(torch.empty(self._activations(size))).shape[-2:])

    def _activations(self, size: int) -> torch.Size:
        """Shape of the layer's activations for one image of this size. Raises `UserError` when the classifier takes none such, or when
        the layer does not give one tensor of maps or tokens."""
        outputs = []
        handle = self.layer.register_forward_hook(lambda module, inputs, output: outputs.append(output))
        try:
            with torch.no_grad():
                self.model(pixel_values=torch.zeros(1, 3, size, size, device=self.device))
        except (ValueError, RuntimeError) as error:
            raise UserError(
                f"the classifier takes no images of {size}x{size}: change --saliency_input_size ({first_line(error)})"
            ) from error
        finally:
            handle.remove()
        if not outputs or not isinstance(outputs[0], torch.Tensor) or outputs[0].ndim not in (3, 4):
            raise UserError(f"module {self.layer_name!r} of the classifier gives no maps: name another --saliency_layer")
        return outputs[0].shape

    def pixel_values(self, image: Image.Image, resize: str) -> torch.Tensor:
        """One image as the classifier's input, float32 (3, size, size)."""
        pixels = np.asarray(square(image, self.size, resize), dtype=np.float32) / 255
        pixels = (pixels - np.array(self.processor.image_mean, np.float32)) / np.array(self.processor.image_std, np.float32)
        return torch.from_numpy(pixels).permute(2, 0, 1)

    def maps(self, pixel_values: torch.Tensor, labels: list[int]) -> np.ndarray:
        """float32 (B, 64, 64) in [0, 1], for pixel values (B, 3, size, size) and their true labels."""
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

        targets = [ClassifierOutputTarget(label) for label in labels]
        with contextlib.redirect_stderr(io.StringIO()):  # score-cam and ablation-cam show a progress bar for every image
            maps = self.cam(pixel_values.to(self.device), targets)
        resized = np.stack([cv2.resize(m, (MAP_SIZE, MAP_SIZE), interpolation=cv2.INTER_AREA) for m in maps])
        return resized.astype(np.float32)

    def image_maps(self, images: Sequence[Image.Image], labels: list[int], resize: str) -> np.ndarray:
        """float32 (n, 64, 64) in [0, 1] for RGB images of any size, in batches of one size, the last filled up with its last image: the
        bits of a map depend on the size of its batch."""
        maps = []
        for start in range(0, len(images), BATCH):
            rows = [min(row, len(images) - 1) for row in range(start, start + BATCH)]
            pixels = torch.stack([self.pixel_values(images[row], resize) for row in rows])
            maps.append(self.maps(pixels, [labels[row] for row in rows]))
        return np.concatenate(maps)[: len(images)]

    @torch.no_grad()
    def predict(self, pixel_values: torch.Tensor) -> np.ndarray:
        """Predicted labels, int64 (B,), for pixel values (B, 3, size, size)."""
        predicted = self.model(pixel_values=pixel_values.to(self.device)).logits.argmax(-1).cpu().numpy()
        self.cam.activations_and_grads.activations.clear()  # which the library's hooks would keep for every batch
        return predicted


def library_cam(method: str, model: nn.Module, layer: nn.Module, convolutional: bool):
    """pytorch-grad-cam's object of a method; of a layer that is not convolutional the activations are tokens."""
    import pytorch_grad_cam as library
    from pytorch_grad_cam.ablation_layer import AblationLayer, AblationLayerVit

    options = {"ablation_layer": AblationLayer() if convolutional else AblationLayerVit()} if method == "ablation-cam" else {}
    return getattr(library, CAMS[method])(model, [layer], reshape_transform=to_feature_map, **options)


class _Logits(nn.Module):
    """pytorch-grad-cam wants a tensor out of the model, transformers gives an output object."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self.model(pixel_values=pixel_values).logits


def _cut_graph(module: nn.Module, inputs: tuple, output: torch.Tensor) -> torch.Tensor:
    """Lets gradients begin at the layer that is read: those of the layers before it, most of the work, are asked for by nobody. The maps
    stay the same. The copy lets the layers behind work in place."""
    return output.detach().requires_grad_(torch.is_grad_enabled()).clone()


def to_feature_map(activations: torch.Tensor) -> torch.Tensor:
    """Activations as (B, C, h, w): a convolution's as they are, a ViT's tokens (B, 1 + h*w, C) without the class token."""
    if activations.ndim == 4:
        return activations
    side = int(activations.shape[1] ** 0.5)
    extra = activations.shape[1] - side * side
    return activations[:, extra:].transpose(1, 2).unflatten(2, (side, side))


def default_layer(model: nn.Module) -> str:
    """The layer a CAM reads: the first norm of a ViT's last block (its output gives all-zero maps), else the module
    that makes the last 4-D activation before pooling, found by the network's stages."""
    names = [name for name, _ in model.named_modules()]
    norms = [name for name in names if name.endswith(("layernorm_before", "norm1"))]
    stages = [name for name in names if name.rpartition(".")[0].endswith("stages") and name.rpartition(".")[2].isdigit()]
    if stages:
        return stages[-1]
    if norms:
        return norms[-1]
    convolutions = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]
    if not convolutions:
        raise UserError("found no layer for a class activation map in this classifier: name one with --saliency_layer")
    return convolutions[-1]


def processor_size(processor) -> int:
    """The input size an image processor makes: its crop, or its shortest edge."""
    crop = getattr(processor, "crop_size", None) or processor.size
    size = crop.get("height") or crop.get("shortest_edge")
    if not size:
        raise UserError("the classifier's image processor states no size: give --saliency_input_size")
    return int(size)
