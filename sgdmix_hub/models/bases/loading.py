"""Base diffusion models: loading, and images out of tensors."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import diffusers
import torch
from diffusers.utils import logging
from safetensors import safe_open

from sgdmix_hub._compat import LOADING
from sgdmix_hub.errors import UserError, first_line, shown
from sgdmix_hub.hub.pins import Pin, local_folder
from sgdmix_hub.models.quantization import quantization_config

from .family import Encoder, Family, Pipeline
from .supported import SHARDED, absent_parts, check_supported, making_sampler, shards_in

COMPARED = 16  # numbers of a row by which a weight is recognised
Task = Literal["text_to_image", "image_to_image"]


@dataclass(frozen=True)
class LoadedBase:
    """A base model as a pipeline of diffusers, with its family."""

    family: Family
    pipeline: Pipeline

    @property
    def denoiser(self) -> Any:
        """The network that carries the LoRA."""
        return getattr(self.pipeline, self.family.denoiser)

    @property
    def encoders(self) -> list[Encoder]:
        """The text encoders that learn tokens."""
        return self.family.encoders_of(self.pipeline)

    def tokenizer(self, encoder: Encoder) -> Any:
        return getattr(self.pipeline, encoder.tokenizer)

    def network(self, encoder: Encoder) -> Any:
        return getattr(self.pipeline, encoder.model)

    def use_scheduler(self, name: str | None = None, timestep_spacing: str | None = None) -> None:
        """Replaces the sampler; by default by the one of a training's own images.

        Raises `UserError`.
        """
        config = self.pipeline.scheduler.config
        with making_sampler():
            self.pipeline.scheduler = self.family.scheduler(
                config, name or self.family.drawn_with, timestep_spacing
            )

    def check_size(self, resolution: int) -> None:
        """Raises `UserError` if the base takes no images of this width and height."""
        multiple = self.family.multiple_of(self.pipeline)
        if resolution % multiple:
            raise UserError(
                f"resolution {resolution} is not a multiple of {multiple}, as bases of "
                f"{self.family.title} need: give {resolution // multiple * multiple or multiple}"
            )

    def image_to_image(self) -> Pipeline:
        """The same networks as an img2img pipeline, without a safety checker."""
        pipeline_class = getattr(diffusers, self.family.image_to_image)
        return pipeline_class(
            **self.pipeline.components
            | self.family.options(safety_checker=False)
            | self.family.of_pipeline(self.pipeline)
        )


def to_uint8(images: torch.Tensor) -> torch.Tensor:
    """Float images in [0, 1] as uint8."""
    return (images * 255).round().clamp(0, 255).to(torch.uint8)


@contextmanager
def no_loading_bar():
    """Turns off diffusers' bar over a pipeline's parts: programs show one bar per stage."""
    was_enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_enabled:
            logging.enable_progress_bar()


def load_base(
    base: Pin,
    dtype: torch.dtype,
    task: Task,
    *,
    safety_checker: bool = False,
    quantization: str | None = None,
    vae_dtype: torch.dtype | None = None,
) -> LoadedBase:
    """Loads the pinned base model as a pipeline, from safetensors only. Raises `UserError`.

    `safety_checker`: with the base's own, if it has one. `quantization`: of the denoiser, which
    then computes in `dtype`. `vae_dtype`: of the autoencoder, if another one.
    """
    family = check_supported(base)
    _check_shards(base)
    options = family.options(safety_checker) | absent_parts(base, family)
    if quantization is not None:
        config = quantization_config(quantization, family.denoiser, dtype)
        options |= {"quantization_config": config}
    pipeline_class = getattr(diffusers, getattr(family, task))
    try:
        with LOADING, warnings.catch_warnings(), no_loading_bar():
            # older diffusers do not know the new name, `dtype`
            warnings.filterwarnings("ignore", message=".*torch_dtype.*", category=FutureWarning)
            pipeline = pipeline_class.from_pretrained(
                base.path or base.name,
                revision=None if base.is_local else base.revision,
                torch_dtype=dtype if vae_dtype is None else {"default": dtype, "vae": vae_dtype},
                use_safetensors=True,
                **options,
            )
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # fetched files can make the libraries raise anything
        raise UserError(f"cannot load the base model {base.name}: {first_line(error)}") from error
    loaded = LoadedBase(family, pipeline)
    _check_whole(base, loaded)
    _check_scaling(base, loaded)
    for encoder in loaded.encoders:
        _check_prompt_length(base, loaded, encoder)
    return loaded


def _check_shards(base: Pin) -> None:
    """Raises `UserError` if the list of a network's files names something else."""
    folder = Path(local_folder(base, [f"*/*{SHARDED}"]))
    for path in folder.glob(f"*/*{SHARDED}"):
        shards_in(base, folder, path.relative_to(folder).as_posix())


def _check_prompt_length(base: Pin, loaded: LoadedBase, encoder: Encoder) -> None:
    """Raises `UserError` if the tokenizer pads prompts to more tokens than the text encoder reads.

    A tokenizer that states no length pads to 10^30.
    """
    padded = encoder.reads(loaded.tokenizer(encoder))
    config = loaded.network(encoder).config.get_text_config()
    read = getattr(config, "max_position_embeddings", None)  # T5 reads any length
    if read is not None and padded > read:
        raise UserError(
            f"the base model {base.name} pads prompts to {shown(padded)} tokens, but its text "
            f"encoder reads {read}: set model_max_length in its "
            f"{encoder.tokenizer}/tokenizer_config.json"
        )


def _check_scaling(base: Pin, loaded: LoadedBase) -> None:
    """Raises `UserError` if latents do not come back from the denoiser's scale."""
    space, vae = loaded.family.latents, loaded.pipeline.vae
    try:
        side = 2 * space.factor(vae)
        latents = torch.ones(1, *space.shape(vae, side), device=vae.device, dtype=torch.float32)
        is_kept = torch.allclose(space.unscaled(space.scaled(latents, vae), vae), latents, atol=0.1)
    except Exception as error:
        raise UserError(
            f"vae/config.json of the base model {base.name} scales no latents: {first_line(error)}"
        ) from error
    if not is_kept:
        raise UserError(
            f"vae/config.json of the base model {base.name} scales latents by numbers that cannot "
            "be undone: download it again"
        )


def _check_whole(base: Pin, loaded: LoadedBase) -> None:
    """Raises `UserError` if a network has weights that its files do not hold.

    The libraries would draw the missing ones at random and only warn. They rename weights between
    versions, so weights are recognised by their shapes and some of their values; quantized ones are
    only counted.
    """
    family = loaded.family
    names = [f"{part}/{name}" for part, name in family.weights.items()]
    patterns = [*names, *(_list_of(name) for name in names)]
    folder = Path(local_folder(base, patterns))
    for part, name in family.weights.items():
        network = getattr(loaded.pipeline, part, None)
        files = [] if network is None else _files_of(base, folder, f"{part}/{name}")
        if network is None or not files:
            continue
        weights = list(network.parameters())
        with ExitStack() as opened:
            stored = [opened.enter_context(safe_open(file, framework="pt")) for file in files]
            if getattr(network, "hf_quantizer", None) is None:
                found = _num_recognised(weights, stored)
            else:
                found = sum(len(file.keys()) for file in stored)
        if found < len(weights):
            raise UserError(
                f"the base model {base.name} is incomplete: {part} needs {len(weights)} weights, "
                f"its files hold {found} of them; download it again"
            )


def _files_of(base: Pin, folder: Path, name: str) -> list[Path]:
    """The files of a network's weights, of which `name` is the only one or the list's."""
    if (folder / name).is_file():
        return [folder / name]
    if not (folder / _list_of(name)).is_file():
        return []
    shards = sorted(set(shards_in(base, folder, _list_of(name)).values()))
    return [(folder / name).with_name(shard) for shard in shards]


def _list_of(name: str) -> str:
    """The list of the shards that are in the place of a file of weights."""
    return name.removesuffix(".safetensors") + SHARDED


def _num_recognised(weights: Iterable[torch.Tensor], stored: list[Any]) -> int:
    """How many weights are among the tensors of these open files, in the weights' precision."""
    held = []
    for file in stored:
        for key in list(file.keys()):
            tensor = file.get_slice(key)
            shape = tuple(tensor.get_shape())
            held.append((shape, _ends(tensor if shape else file.get_tensor(key), shape)))
    # a stored tensor is one weight: many norms have the same values
    known: dict[torch.dtype, Counter[tuple[tuple[int, ...], bytes]]] = {}
    found = 0
    for weight in weights:
        if weight.is_meta:  # without values: no file held it
            continue
        if weight.dtype not in known:
            bits_held = ((shape, _bits(ends, weight.dtype)) for shape, ends in held)
            known[weight.dtype] = Counter(bits_held)
        shape = tuple(weight.shape)
        bits = _bits(_ends(weight.detach().cpu(), shape), weight.dtype)
        if known[weight.dtype][shape, bits] > 0:
            known[weight.dtype][shape, bits] -= 1
            found += 1
    return found


def _ends(values: Any, shape: tuple[int, ...]) -> torch.Tensor:
    """Numbers of the first and of the last row of a tensor, or of a slice of a file."""
    if not shape:
        return values.reshape(1)
    rows = values[:1], values[max(shape[0] - 1, 0) :]
    return torch.cat([row.flatten()[:COMPARED] for row in rows])


def _bits(values: torch.Tensor, dtype: torch.dtype) -> bytes:
    return values.to(dtype).float().numpy().tobytes()
