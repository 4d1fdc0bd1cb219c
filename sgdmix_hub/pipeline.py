"""SGDMixPipeline: the stages in order: saliency maps -> masks -> mixture -> refinement.

    pipeline = SGDMixPipeline.from_pretrained("org/cub-adapter", strength=0.5)
    output = pipeline(images, targets, labels, seeds=[0, 1])

A generation calls the later stages with the maps and targets of its plan.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from tqdm.auto import tqdm

from sgdmix_hub.method.mixer import Mixture
from sgdmix_hub.method.saliency.segmentation import MaskFunction, MaskFunctionSource
from sgdmix_hub.method.saliency.sources import Source, load_source
from sgdmix_hub.models.noise import Noise
from sgdmix_hub.models.prompts import Prompts, RowPrompt
from sgdmix_hub.models.saved import Saved, save
from sgdmix_hub.settings.method import MethodSettings
from sgdmix_hub.settings.presets import saliency_source

from .errors import Unusable, UserError, among_usable
from .pipeline_call import (
    as_images,
    as_labels,
    as_prompts,
    checked_tensor_inputs,
    chosen_strength,
    class_prompts,
    noise_of,
    output_of,
    refined_shapes,
)
from .pipeline_output import OUTPUT_TYPES, SGDMixPipelineOutput
from .pipeline_parts import LoadSource, Named, adapter_origin, load_parts, method_settings
from .pipeline_stages import Stages, at, with_maps

if TYPE_CHECKING:
    from sgdmix_hub.models.adapters import Adapter
    from sgdmix_hub.models.refine import Refiner


logger = logging.getLogger(__name__)
Images = Image.Image | list[Image.Image]
Labels = int | list[int] | None
# (pipeline, step, time step, {"latents": (rows, c, h, w)}) -> the tensors to go on with
OnStepEnd = Callable[["SGDMixPipeline", int, torch.Tensor, dict[str, Any]], dict[str, Any]]


class SGDMixPipeline(Stages):
    """SGD-Mix on images, called as diffusers' image-to-image pipelines are.

    Without a refiner it mixes alone, which is strength 0.
    """

    def __init__(
        self,
        settings: MethodSettings,
        refiner: Refiner | None = None,
        source: Source | None = None,
        pins: dict[str, str] | None = None,
        class_names: list[str] | None = None,
        load_source: LoadSource | None = None,
    ):
        """`settings`: with their preset applied.

        `source`: makes the maps of a whole call; may be left out for a method that needs no model.
        `pins`: the adapter, base and classifier that were loaded, as in `Inputs.pins`.
        `class_names`: the classes that the models know, if there are models. `load_source`: loads
        `source` onto another device.
        """
        super().__init__(settings, refiner, source)
        self.pins = pins
        self.class_names = class_names
        self.load_source = load_source
        self._bar_options: dict[str, Any] = {}

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | None = None,
        adapter: str | None = None,
        *,
        class_names: list[str] | None = None,
        classifier: str | None = None,
        segmenter: str | None = None,
        detector: str | None = None,
        mask_function: MaskFunction | None = None,
        few_step_lora: str | None = None,
        device: str | torch.device | None = None,
        **method: Any,
    ) -> SGDMixPipeline:
        """Loads a pipeline. Models are `org/name`, `org/name@revision` or local folders.

        Args:
            pretrained_model_name_or_path: a base model; or an adapter, which brings the base that
                it was trained on; or what `save_pretrained` or `push_to_hub` wrote. Not needed for
                strength 0.
            adapter: an adapter (or a saved pipeline) for this base model, or a LoRA of another
                program; its file is `adapter_weight_name`, if there are several. Without an adapter
                of sgdmix train-adapter, prompts hold the names of the classes.
            class_names: of a base model alone, in the order of the labels.
            classifier: for a saliency method that needs one.
            segmenter: a segmentation model, which makes saliency_method `segmentation`.
            detector: for a SAM 2 segmenter.
            mask_function: RGB image -> its foreground mask, a PIL image or an array (h, w), instead
                of a saliency method.
            few_step_lora: a LoRA that distils the base to few steps; needs `few_step_method`.
            device: by default "cuda" if there is one, else "cpu".
            **method: fields of `MethodSettings`: `strength`, `preset`, `num_inference_steps` ...;
                `dtype` may be called `torch_dtype`. They win over those of a saved pipeline.

        Raises:
            UserError: a model or setting that is missing, unknown, or does not fit the others.
        """
        named = Named(
            pretrained_model_name_or_path,
            adapter,
            classifier,
            segmenter,
            detector,
            mask_function,
            few_step_lora,
        )
        on = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        parts = load_parts(named, class_names, on, method)
        return cls(
            parts.settings,
            parts.refiner,
            parts.source,
            parts.pins,
            parts.class_names,
            parts.load_source,
        )

    def save_pretrained(self, save_directory: str | Path) -> None:
        """Writes the adapter, the settings and the pins of the other models into a folder.

        `from_pretrained(save_directory)` makes equal images. The base, classifier and segmenter
        stay where they are; a local one has to be named again. Raises `UserError` for a pipeline
        whose models are unknown, or with a `mask_function`.
        """
        if isinstance(self.source, MaskFunctionSource):
            raise UserError("a mask_function cannot be saved: save the function's own code")
        foreign = None if self.refiner is None else self.refiner.foreign
        save(Path(save_directory), self._adapter, self._saved(), foreign)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        license: str | None = None,
        allow_license: str | None = None,
        private: bool = False,
        token: str | None = None,
        commit_message: str = "Upload an SGD-Mix pipeline",
        allow_local_inputs: bool = False,
    ) -> str:
        """Pushes what `save_pretrained` writes, in one verified commit; returns `repo_id@commit`.

        `license`: of the adapter, which is published again; needed if there is one, and checked
        against those that its card and its base's state. `allow_license`: why another one is
        right, for the card. `private`: of a repository that is created. `token`: by default that
        of `hf auth login` or HF_TOKEN. `allow_local_inputs`: push although the base or another
        model is a local folder, so that nobody else can load the pipeline. Raises `UserError`.
        """
        # takes seconds to import, and few pipelines are pushed
        from sgdmix_hub.hub.push import push_folder
        from sgdmix_hub.publishing.pipeline_card import checked_license, write_pipeline_card
        from sgdmix_hub.publishing.versions import check_inputs

        saved = self._saved()
        check_inputs(saved.pins, allow_local_inputs)
        origin = adapter_origin(self.refiner, self.pins or {})
        licence = None if origin is None else checked_license(*origin, license, allow_license)
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            write_pipeline_card(Path(folder), repo_id, saved, licence)
            return str(push_folder(folder, repo_id, "model", private, token, commit_message))

    def _saved(self) -> Saved:
        """What of the pipeline is saved beside its adapter. Raises `ValueError`."""
        if self.pins is None and (self.refiner, self.source) != (None, None):
            raise ValueError(
                "the models of this pipeline are unknown: load it with from_pretrained"
            )
        values = asdict(method_settings(self.settings))
        given = {name: value for name, value in values.items() if value is not None}
        pins = {name: pin for name, pin in (self.pins or {}).items() if name != "adapter"}
        return Saved(given, pins, self.class_names)

    @property
    def _adapter(self) -> Adapter | None:
        return None if self.refiner is None else self.refiner.adapter

    @property
    def device(self) -> torch.device:
        """Where the diffusion model is; the CPU without one."""
        return torch.device("cpu") if self.refiner is None else self.refiner.device

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the diffusion model: float32, float16 or bfloat16."""
        return getattr(torch, self.settings.dtype)

    def to(
        self,
        *args: str | torch.device | torch.dtype,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> SGDMixPipeline:
        """Moves the models to a device, converts the diffusion model to a dtype, or both.

        `pipeline.to("cuda")`, `pipeline.to(torch.float16)`, `pipeline.to("cuda", torch.float16)`.
        The saliency method's model is loaded again on the new device. Returns the pipeline. Raises
        `UserError` for a dtype that is not float32, float16 or bfloat16, or not for the base.
        """
        for given in args:
            if isinstance(given, torch.dtype):
                dtype = given
            else:
                device = given
        on = self.device if device is None else torch.device(device)
        chosen = self.settings if dtype is None else replace(self.settings, dtype=dtype)
        if self.refiner is not None:
            self.refiner.family.check_precision("dtype", chosen.dtype)
            self.refiner.settings = chosen
            self.refiner.to(on, getattr(torch, chosen.dtype))
        self.settings = chosen
        if device is not None and self.load_source is not None:
            self.source = self.load_source(on)
        return self

    def set_progress_bar_config(self, **options: Any) -> None:
        """Options of tqdm for the bar over a call's denoising steps; `disable=True` hides it."""
        self._bar_options = options

    def progress_bar(self, total: int, **options: Any) -> tqdm:
        """A bar with these options, which those of `set_progress_bar_config` replace."""
        return tqdm(total=total, **(options | self._bar_options))

    def __call__(
        self,
        image: Images,
        target_image: Images | None = None,
        labels: Labels = None,
        target_labels: Labels = None,
        *,
        prompt: str | list[str] | None = None,
        strength: float | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        negative_prompt: str | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        seeds: int | list[int] | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: OnStepEnd | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
    ) -> SGDMixPipelineOutput | tuple[list, ...]:
        """Puts the foreground of every image on the background of its target, and refines it.

        An image that cannot be used gives None, a reason, and a warning.

        Args:
            image: one image of PIL or a list, of any size: what gives the foregrounds.
            target_image: as many: what gives the backgrounds. Only mixing_method none needs none.
            labels: class numbers of `image`, as the adapter and the classifier count them. Needed
                for the class's prompt and by a classifier's maps.
            target_labels: class numbers of `target_image`. Needed by a classifier's maps, and by
                prompt_class `target`.
            prompt: instead of the class's: one for all images, or one each.
            strength: S, in [0, 1]; 0 only mixes. Must be chosen if the settings name several.
            num_inference_steps: diffusion steps at strength 1, of which int(steps * S) run.
            guidance_scale: off if at most 1.
            negative_prompt: prompt that guidance steers the image away from.
            generator: of the noise: a list with one an image, as in diffusers. From a single one
                for several images a seed is drawn for each.
            seeds: of the noise, one an image, in [0, 2**63): the same as new generators on the CPU
                with these seeds. Without both, seeds are drawn from torch's own generator.
            output_type: "pil", "np" or "pt", of images and masks.
            return_dict: False for a tuple of the output's fields.
            callback_on_step_end: called as `callback(pipeline, step, timestep, {"latents": ...})`
                after every denoising step of a batch; returns a dictionary whose latents replace
                these. Latents: (rows, c, h, w) of the batch's rows, scaled.
            callback_on_step_end_tensor_inputs: what the callback is given: latents, or nothing.

        Raises:
            ValueError: arguments that are missing or do not belong together.
            UserError: values that the settings refuse.
        """
        images = as_images("image", image)
        count, method = len(images), self.settings
        if target_image is None and method.mixing_method != "none":
            raise ValueError("give target_image: the images that lend their backgrounds")
        targets = images if target_image is None else as_images("target_image", target_image, count)
        if output_type not in OUTPUT_TYPES:
            raise ValueError(f"output_type {output_type!r}: choose {', '.join(OUTPUT_TYPES)}")
        tensors = checked_tensor_inputs(callback_on_step_end_tensor_inputs)
        own = as_labels("labels", labels, count)
        others = as_labels("target_labels", target_labels, count)
        if others is None and saliency_source(method).needs == "classifier":
            raise ValueError("the classifier's maps of the targets need target_labels")
        noise = noise_of(generator, seeds, count)
        chosen = chosen_strength(strength, method.strength)
        call = self._for_call(
            chosen,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            negative_prompt=negative_prompt,
        )
        named = others if method.prompt_class == "target" else own
        prompts = call._row_prompts(as_prompts(prompt, count), named, noise)
        source = self.source or load_source(method)
        found = with_maps(source, images, own)
        mixtures = self.mixed(found, with_maps(source, targets, others))
        with call._reporting(self, mixtures, callback_on_step_end, tensors):
            finished = among_usable(
                mixtures,
                lambda rows, batch: call.finish(batch, *at(rows, prompts, noise), chosen),
                method.batch_size,
            )
        for row, outcome in enumerate(finished):
            if isinstance(outcome, Unusable):
                logger.warning(f"image {row}: {outcome.reason}")
        confidences = [None if isinstance(one, Unusable) else one[1].confidence for one in found]
        kept = call._prompts().kept_to_the_end
        texts = [row.told(kept) for row in prompts]
        output = output_of(finished, mixtures, confidences, texts, noise, output_type)
        return output if return_dict else output.to_tuple()

    def _for_call(self, strength: float, **given: float | str | None) -> SGDMixPipeline:
        """This pipeline with the settings of one call. Raises `UserError` and `ValueError`."""
        chosen = {name: value for name, value in given.items() if value is not None}
        call = copy(self)
        call.settings = replace(method_settings(self.settings), strength=[strength], **chosen)
        if strength > 0:
            if self.refiner is None:
                raise ValueError(
                    "this pipeline has no diffusion model: load it with a strength above 0"
                )
            call.settings.validate()
        return call

    def _prompts(self) -> Prompts:
        return Prompts(self.settings, self._adapter, self.class_names)

    def _row_prompts(
        self, given: list[str] | None, labels: list[int] | None, noise: list[Noise]
    ) -> list[RowPrompt]:
        """The given prompts, or those of the classes. Raises `ValueError`."""
        if self.settings.strength == [0]:
            return [RowPrompt("")] * len(noise)
        if given is not None:
            return [RowPrompt(text) for text in given]
        if labels is None:
            which = "target_labels" if self.settings.prompt_class == "target" else "labels"
            raise ValueError(f"give {which}, the classes that the prompts name, or prompt")
        if self.class_names is None:
            raise ValueError("give prompt, or load the pipeline with class_names for the labels")
        return class_prompts(self._prompts(), labels, noise)

    @contextmanager
    def _reporting(
        self,
        shown: SGDMixPipeline,
        mixtures: list[Mixture | Unusable],
        callback: OnStepEnd | None,
        tensors: Sequence[str],
    ) -> Generator[None]:
        """Lets the refiner report its steps to a bar, and to the callback, which gets `shown`."""
        settings = self.settings
        shapes, strength = refined_shapes(mixtures, settings.batch_size), settings.strength[0]
        if strength == 0 or not shapes or self.refiner is None:
            yield
            return
        self.refiner = self.refiner.using(settings)
        total = sum(self.num_steps(strength, shape) for shape in shapes)
        with self.progress_bar(total, unit="step") as bar:

            def on_step_end(step: int, timestep: torch.Tensor, latents: torch.Tensor):
                bar.update()
                if callback is None:
                    return latents
                told = {"latents": latents} if tensors else {}
                return callback(shown, step, timestep, told).get("latents", latents)

            self.refiner = self.refiner.using(settings, on_step_end)
            yield
