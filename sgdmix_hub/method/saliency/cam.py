"""Class activation maps of a classifier for the true label, by pytorch-grad-cam."""

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
from sgdmix_hub.errors import UserError, shown

from .cam_layers import default_layer, maps_last, to_maps
from .model_free import MAP_SIZE

if TYPE_CHECKING:
    from sgdmix_hub.models.classifier import Classifier

# `saliency_method` -> class of pytorch-grad-cam. The library imports scikit-learn, which takes a
# second: it is imported only when a CAM is made.
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
SMALLEST_GRID = 7  # cells; coarser maps give bad masks
BATCH = 16


class CamSaliency:
    """A method of pytorch-grad-cam on a classifier.

    Maps cover the whole image, although the classifier's own transform may crop.
    """

    def __init__(
        self,
        classifier: Classifier,
        method: str,
        layer: str | None = None,
        input_size: int | None = None,
    ):
        """`method`: a key of `CAMS`. `layer`: the module to read, by default `default_layer`.

        `input_size`: by default the size that the classifier was trained at, or a larger one that
        gives 7 x 7 cells, if the classifier takes it. Raises `UserError` for a layer that does not
        exist or gives no maps, and for an input size that the classifier does not take.
        """
        self.classifier, self.method, self.device = classifier, method, classifier.device
        self.layer_name = layer or default_layer(classifier.model)
        modules = dict(classifier.model.named_modules())
        if self.layer_name not in modules:
            example = default_layer(classifier.model)
            raise UserError(
                f"the classifier has no module {shown(self.layer_name)!r} for saliency_layer: "
                f"name one of its modules, for example {example!r}"
            )
        self.layer = modules[self.layer_name]
        self.size = input_size or self._fine_enough(classifier.whole_size)
        shape = self._activations(self.size)
        self.channels_last = maps_last(shape)
        self.grid = self._grid(shape)
        if self.grid == (1, 1):
            raise UserError(
                f"{self.layer_name} of the classifier gives maps of one cell, which show nothing: "
                "name another --saliency_layer"
            )

    def _fine_enough(self, size: int) -> int:
        """The smallest input size from `size` on that gives 7 x 7 cells; `size` if none does."""
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
        height, width = to_maps(maps_last(shape))(torch.empty(shape)).shape[-2:]
        return height, width

    def _activations(self, size: int) -> torch.Size:
        """Shape of the layer's activations for two images of this size.

        Raises `UserError` if the classifier takes no such images, or if the layer does not output
        one tensor with maps or tokens of both.
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
                f"the classifier takes no images of {size}x{size}: change --saliency_input_size "
                f"({error})"
            )
        if not outputs or not isinstance(outputs[0], torch.Tensor) or outputs[0].ndim not in (3, 4):
            raise self._unfit("no maps")
        shape = outputs[0].shape
        if shape[0] != 2:
            raise self._unfit(f"{shape[0]} maps for 2 images")
        if len(shape) == 4 and shape[2] not in (shape[1], shape[3]):
            raise self._unfit("no square maps")
        return shape

    def _unfit(self, maps: str) -> UserError:
        return UserError(
            f"module {self.layer_name!r} of the classifier gives {maps}: "
            "name another --saliency_layer"
        )

    def pixel_values(self, image: Image.Image, resize: str) -> torch.Tensor:
        """One whole image as the classifier's input, float32 (3, size, size)."""
        return self.classifier.preprocessing.whole(image, self.size, resize)

    def maps(self, pixel_values: torch.Tensor, labels: list[int]) -> np.ndarray:
        """float32 (B, 64, 64) in [0, 1], of pixel values (B, 3, size, size) and their labels."""
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

        targets = [ClassifierOutputTarget(label) for label in labels]
        # registered before the library's own hooks, so that they see the cut graph
        cut = self.layer.register_forward_hook(_cut_graph)
        cam = library_cam(
            self.method, _Logits(self.classifier.model), self.layer, self.channels_last
        )
        try:
            # score-cam and ablation-cam show a progress bar for every image
            with contextlib.redirect_stderr(io.StringIO()):
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
        """float32 (n, 64, 64) in [0, 1] of RGB images of any size.

        The last batch is padded with its last image: the bits of a map depend on the batch size.
        """
        maps = []
        for start in range(0, len(images), BATCH):
            rows = [min(row, len(images) - 1) for row in range(start, start + BATCH)]
            pixels = torch.stack([self.pixel_values(images[row], resize) for row in rows])
            maps.append(self.maps(pixels, [labels[row] for row in rows]))
        return np.concatenate(maps)[: len(images)]


def library_cam(method: str, model: nn.Module, layer: nn.Module, channels_last: bool):
    """The CAM object of pytorch-grad-cam, with its hooks on the layer."""
    import pytorch_grad_cam as library
    from pytorch_grad_cam.ablation_layer import AblationLayer, AblationLayerVit

    options = {}
    if method == "ablation-cam":
        options["ablation_layer"] = AblationLayerVit() if channels_last else AblationLayer()
    return getattr(library, CAMS[method])(
        model, [layer], reshape_transform=to_maps(channels_last), **options
    )


class _Logits(nn.Module):
    """A transformers model that returns a tensor, as pytorch-grad-cam expects."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self.model(pixel_values=pixel_values).logits


def _cut_graph(module: nn.Module, inputs: tuple, output: torch.Tensor) -> torch.Tensor:
    """Starts the graph at the layer that is read: nobody uses the gradients of earlier layers.

    The maps stay the same at a fraction of the work. The copy lets later layers work in place.
    """
    return output.detach().requires_grad_(torch.is_grad_enabled()).clone()
