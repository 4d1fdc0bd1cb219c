"""Images -> saliency maps: float32 (64, 64) in [0, 1], the Z of the paper."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from PIL import Image
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import nn
from transformers import AutoImageProcessor, AutoModelForImageClassification

from .config import UserError, first_line
from .data import square

MAP_SIZE = 64
SMALLEST_GRID = 7


def is_blank(saliency_map: np.ndarray) -> bool:
    """Whether a map separates nothing: constant or not finite."""
    return not np.isfinite(saliency_map).all() or float(np.ptp(saliency_map)) == 0.0


def spectral_residual(grey: np.ndarray, sigma: float = 6.0) -> np.ndarray:
    """Spectral-residual saliency (Hou & Zhang, CVPR 2007). `grey`: float (h, w); returns float32 (h, w) in [0, 1], zeros
    for an image that is grey all over.

    The textbook order: square of the inverse transform, then the Gaussian. OpenCV blurs first, which leaves mostly edges.
    """
    if np.ptp(grey) == 0:
        return np.zeros(grey.shape, np.float32)  # the residual of nothing is an impulse of rounding errors
    spectrum = np.fft.fft2(grey.astype(np.float64))
    log_amplitude = np.log(np.abs(spectrum) + 1e-12)
    residual = log_amplitude - cv2.blur(log_amplitude, (3, 3), borderType=cv2.BORDER_REFLECT)
    power = np.abs(np.fft.ifft2(np.exp(residual + 1j * np.angle(spectrum)))) ** 2
    return to_unit_range(cv2.GaussianBlur(power, (0, 0), sigma))


def to_unit_range(values: np.ndarray) -> np.ndarray:
    """Values scaled to [0, 1] as float32; zeros when they are constant."""
    spread = float(np.ptp(values))
    if spread == 0.0:
        return np.zeros(values.shape, np.float32)
    return ((values - values.min()) / spread).astype(np.float32)


def spectral_residual_map(image: Image.Image, resize: str) -> np.ndarray:
    """Spectral residual of an RGB image, computed at 64 x 64."""
    return spectral_residual(np.asarray(square(image.convert("L"), MAP_SIZE, resize), dtype=np.float64))


def mask_column_map(mask: Image.Image, resize: str) -> np.ndarray:
    """A foreground mask from the dataset as a map: any mode, anything above zero is foreground."""
    foreground = Image.fromarray(np.where(np.asarray(mask.convert("L")) > 0, 255, 0).astype(np.uint8))
    small = square(foreground, MAP_SIZE, resize, Image.Resampling.BOX)
    return np.asarray(small, dtype=np.float32) / 255


class GradCamSaliency:
    """Grad-CAM (Selvaraju et al.) of the true label, through pytorch-grad-cam, on any transformers image classifier."""

    def __init__(self, folder: str, device: torch.device, layer: str | None = None, input_size: int | None = None):
        """`folder` holds the classifier; `layer` names the module whose activations are read (default: the last stage
        of a convolutional network, the last block's first norm of a ViT). Raises `UserError` for an unknown layer or a grid below 7 x 7."""
        try:
            self.model = AutoModelForImageClassification.from_pretrained(folder, use_safetensors=True).to(device).eval()
            self.processor = AutoImageProcessor.from_pretrained(folder)
        except (OSError, ValueError) as error:
            raise UserError(f"cannot load the classifier: {first_line(error)}") from error
        self.device = device
        self.size = input_size or processor_size(self.processor)
        self.layer_name = layer or default_layer(self.model)
        modules = dict(self.model.named_modules())
        if self.layer_name not in modules:
            raise UserError(
                f"saliency_layer {self.layer_name!r} is no module of the classifier, which has for example {default_layer(self.model)!r}"
            )
        self.layer = modules[self.layer_name]
        self._check_grid()
        self.cam = GradCAM(_Logits(self.model), [self.layer], reshape_transform=to_feature_map)

    def _check_grid(self) -> None:
        height, width = self._grid(self.size)
        if min(height, width) >= SMALLEST_GRID:
            return
        try:
            enough = -(-self.size * SMALLEST_GRID // min(height, width))
            while min(self._grid(enough)) < SMALLEST_GRID:  # strides round down
                enough += 1
            remedy = f"raise --saliency_input_size to {enough} or "
        except UserError:
            remedy = ""
        raise UserError(
            f"the maps of {self.layer_name} are {height}x{width} at input {self.size}, too coarse for a mask (7x7 at least): "
            f"{remedy}name an earlier --saliency_layer"
        )

    def _grid(self, size: int) -> tuple[int, int]:
        """Height and width of the layer's activations for inputs of this size. Raises `UserError` when the classifier takes none such."""
        shapes = []
        handle = self.layer.register_forward_hook(lambda module, inputs, output: shapes.append(to_feature_map(output).shape))
        try:
            with torch.no_grad():
                self.model(pixel_values=torch.zeros(1, 3, size, size, device=self.device))
        except (ValueError, RuntimeError) as error:
            raise UserError(
                f"the classifier takes no images of {size}x{size}: change --saliency_input_size ({first_line(error)})"
            ) from error
        finally:
            handle.remove()
        return tuple(shapes[0][-2:])

    def pixel_values(self, image: Image.Image, resize: str) -> torch.Tensor:
        """One image as the classifier's input, float32 (3, size, size)."""
        pixels = np.asarray(square(image, self.size, resize), dtype=np.float32) / 255
        pixels = (pixels - np.array(self.processor.image_mean, np.float32)) / np.array(self.processor.image_std, np.float32)
        return torch.from_numpy(pixels).permute(2, 0, 1)

    def maps(self, pixel_values: torch.Tensor, labels: list[int]) -> np.ndarray:
        """float32 (B, 64, 64) in [0, 1], for pixel values (B, 3, size, size) and their true labels."""
        targets = [ClassifierOutputTarget(label) for label in labels]
        maps = self.cam(pixel_values.to(self.device), targets)
        resized = np.stack([cv2.resize(m, (MAP_SIZE, MAP_SIZE), interpolation=cv2.INTER_AREA) for m in maps])
        return resized.astype(np.float32)


class _Logits(nn.Module):
    """pytorch-grad-cam wants a tensor out of the model, transformers gives an output object."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self.model(pixel_values=pixel_values).logits


def to_feature_map(activations: torch.Tensor | tuple) -> torch.Tensor:
    """Activations as (B, C, h, w): a convolution's as they are, a ViT's tokens (B, 1 + h*w, C) without the class token."""
    if isinstance(activations, tuple):
        activations = activations[0]
    if activations.ndim == 4:
        return activations
    side = int(activations.shape[1] ** 0.5)
    extra = activations.shape[1] - side * side
    return activations[:, extra:].transpose(1, 2).unflatten(2, (side, side))


def default_layer(model: nn.Module) -> str:
    """The layer Grad-CAM reads: the first norm of a ViT's last block (its output gives all-zero maps), else the module
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
        raise UserError("found no layer for Grad-CAM in this classifier: name one with --saliency_layer")
    return convolutions[-1]


def processor_size(processor) -> int:
    """The input size an image processor makes: its crop, or its shortest edge."""
    crop = getattr(processor, "crop_size", None) or processor.size
    size = crop.get("height") or crop.get("shortest_edge")
    if not size:
        raise UserError("the classifier's image processor states no size: give --saliency_input_size")
    return int(size)
