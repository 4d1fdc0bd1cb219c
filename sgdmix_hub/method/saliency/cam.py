"""Class activation maps: what a classifier looked at for the true label, through pytorch-grad-cam.
float32 (64, 64) in [0, 1].
"""

from __future__ import annotations

import bisect
import contextlib
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
from PIL import Image
from torch import nn

from sgdmix_hub._compat import remove_cam_hooks
from sgdmix_hub.errors import UserError, one_line, shown

from .cam_layers import default_layer, maps_last, to_maps
from .model_free import MAP_SIZE

if TYPE_CHECKING:
    from sgdmix_hub.models.classifier import Classifier

# pytorch-grad-cam's class by method. The library brings scikit-learn, a second of every program's
# start: it is imported where a CAM is asked for.
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
    """One of pytorch-grad-cam's methods on a classifier. Maps cover the whole image, whatever the
    classifier's own transform crops away.
    """

    def __init__(
        self,
        classifier: Classifier,
        method: str,
        layer: str | None = None,
        input_size: int | None = None,
    ):
        """`method` is a key of `CAMS`; `layer` names the module whose activations are read
        (default: cam_layers.py); without `input_size` images have the scale that the classifier was
        trained at, enlarged until the activations have at least 7 x 7 cells, where it takes larger
        images. Raises `UserError` for a layer that does not exist or gives no maps of the images,
        and for an input size that the classifier does not take.
        """
        self.classifier, self.method, self.device = classifier, method, classifier.device
        self.layer_name = layer or default_layer(classifier.model)
        modules = dict(classifier.model.named_modules())
        if self.layer_name not in modules:
            example = default_layer(classifier.model)
            raise UserError(
                f"saliency_layer {shown(self.layer_name)!r} is no module of the classifier, which has for example {example!r}"
            )
        self.layer = modules[self.layer_name]
        self.size = input_size or self._fine_enough(classifier.whole_size)
        shape = self._activations(self.size)
        self.channels_last = maps_last(shape)
        self.grid = self._grid(shape)
        if self.grid == (1, 1):
            raise UserError(
                f"{self.layer_name} of the classifier gives maps of one cell, which show nothing: name another --saliency_layer"
            )

    def _fine_enough(self, size: int) -> int:
        """An input size, from `size` upwards, that gives 7 x 7 cells and hardly more; `size` where
        no larger one gives more.
        """
        cells = self._cells(size)
        if cells >= SMALLEST_GRID:
            return size
        enough = -(-size * SMALLEST_GRID // cells)
        with contextlib.suppress(UserError):
            if self._cells(enough) > cells:
                sizes = range(enough, 2 * enough)
                place = bisect.bisect_left(sizes, SMALLEST_GRID, key=self._cells)
                return sizes[place] if place < len(sizes) else size
        return size

    def _cells(self, size: int) -> int:
        """The shorter side of the maps for images of this size."""
        return min(self._grid(self._activations(size)))

    def _grid(self, shape: torch.Size) -> tuple[int, int]:
        return tuple(to_maps(maps_last(shape))(torch.empty(shape)).shape[-2:])

    def _activations(self, size: int) -> torch.Size:
        """Shape of the layer's activations for two images of this size. Raises `UserError` when the
        classifier takes none such, or when the layer does not give one tensor of maps or tokens for
        each.
        """
        outputs = []
        handle = self.layer.register_forward_hook(
            lambda module, inputs, output: outputs.append(output)
        )
        try:
            error = self.classifier.refusal(size, images=2)
        finally:
            handle.remove()
        if error is not None:
            raise UserError(
                one_line(
                    f"the classifier takes no images of {size}x{size}: change --saliency_input_size ({error})"
                )
            )
        if not outputs or not isinstance(outputs[0], torch.Tensor) or outputs[0].ndim not in (3, 4):
            raise UserError(
                f"module {self.layer_name!r} of the classifier gives no maps: name another --saliency_layer"
            )
        shape = outputs[0].shape
        if shape[0] != 2:
            raise UserError(
                f"module {self.layer_name!r} of the classifier gives {shape[0]} maps for 2 images: name another --saliency_layer"
            )
        if len(shape) == 4 and shape[2] not in (shape[1], shape[3]):
            raise UserError(
                f"module {self.layer_name!r} of the classifier gives no square maps: name another --saliency_layer"
            )
        return shape

    def pixel_values(self, image: Image.Image, resize: str) -> torch.Tensor:
        """One whole image as the classifier's input, float32 (3, size, size)."""
        return self.classifier.preprocessing.whole(image, self.size, resize)

    def maps(self, pixel_values: torch.Tensor, labels: list[int]) -> np.ndarray:
        """float32 (B, 64, 64) in [0, 1], for pixel values (B, 3, size, size) and their true labels."""
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

        targets = [ClassifierOutputTarget(label) for label in labels]
        cut = self.layer.register_forward_hook(
            _cut_graph
        )  # before the library's own hooks, which then see the cut
        cam = library_cam(
            self.method, _Logits(self.classifier.model), self.layer, self.channels_last
        )
        try:
            with contextlib.redirect_stderr(
                io.StringIO()
            ):  # score-cam and ablation-cam show a progress bar for every image
                maps = cam(pixel_values.to(self.device), targets)
        finally:  # not by the library's own context, which swallows an IndexError
            remove_cam_hooks(cam)
            cut.remove()
        resized = np.stack(
            [cv2.resize(m, (MAP_SIZE, MAP_SIZE), interpolation=cv2.INTER_AREA) for m in maps]
        )
        return resized.astype(np.float32)

    def image_maps(
        self, images: Sequence[Image.Image], labels: list[int], resize: str
    ) -> np.ndarray:
        """float32 (n, 64, 64) in [0, 1] for RGB images of any size, in batches of one size, the
        last filled up with its last image: the bits of a map depend on the size of its batch.
        """
        maps = []
        for start in range(0, len(images), BATCH):
            rows = [min(row, len(images) - 1) for row in range(start, start + BATCH)]
            pixels = torch.stack([self.pixel_values(images[row], resize) for row in rows])
            maps.append(self.maps(pixels, [labels[row] for row in rows]))
        return np.concatenate(maps)[: len(images)]


def library_cam(method: str, model: nn.Module, layer: nn.Module, channels_last: bool):
    """pytorch-grad-cam's object of a method, which puts its hooks on the layer."""
    import pytorch_grad_cam as library
    from pytorch_grad_cam.ablation_layer import AblationLayer, AblationLayerVit

    options = (
        {"ablation_layer": AblationLayerVit() if channels_last else AblationLayer()}
        if method == "ablation-cam"
        else {}
    )
    return getattr(library, CAMS[method])(
        model, [layer], reshape_transform=to_maps(channels_last), **options
    )


class _Logits(nn.Module):
    """pytorch-grad-cam wants a tensor out of the model, transformers gives an output object."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self.model(pixel_values=pixel_values).logits


def _cut_graph(module: nn.Module, inputs: tuple, output: torch.Tensor) -> torch.Tensor:
    """Lets gradients begin at the layer that is read: those of the layers before it, most of the
    work, are asked for by nobody. The maps stay the same. The copy lets the layers behind work in
    place.
    """
    return output.detach().requires_grad_(torch.is_grad_enabled()).clone()
