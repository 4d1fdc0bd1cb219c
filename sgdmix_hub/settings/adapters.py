"""Which settings go with an adapter of sgdmix train-adapter, of another program, or without one."""

from __future__ import annotations

from sgdmix_hub.errors import UserError

from .few_step import FEW_STEPS
from .method import MethodSettings
from .prompts import ADAPTER_FIELDS, NAME_FIELDS, check_templates


def check_base_alone(settings: MethodSettings) -> None:
    """Raises `UserError` for settings that a base model without an adapter cannot have, nor one
    with an adapter of another program.
    """
    templates = settings.prompt_template or []
    check_templates("prompt_template", templates, NAME_FIELDS)
    if settings.metaclass is None and any("{metaclass}" in template for template in templates):
        raise UserError("prompt_template holds {metaclass}: give --metaclass, bird or car ...")
    if settings.inpainting_method == "diffusion":
        raise UserError(
            "inpainting_method diffusion needs an adapter: its negative prompt is the adapter's "
            "metaclass"
        )


def check_own_adapter(settings: MethodSettings) -> None:
    """Raises `UserError` for settings that an adapter of sgdmix train-adapter cannot have."""
    check_templates("prompt_template", settings.prompt_template or [], ADAPTER_FIELDS)
    for name in ("metaclass", "adapter_weight_name"):
        if getattr(settings, name) is not None:
            raise UserError(
                f"{name} is for an adapter of another program: this one has an adapter.json, which "
                "says it"
            )


def check_unread_adapter(settings: MethodSettings) -> None:
    """Raises `UserError` for settings that no adapter can have, before it is known whose it is."""
    templates = settings.prompt_template or []
    held = "".join(templates)
    by_name = "{class_name}" in held and "{token}" not in held
    check_templates("prompt_template", templates, NAME_FIELDS if by_name else ADAPTER_FIELDS)


def check_weight_name(settings: MethodSettings, adapter: str | None) -> None:
    """Raises `UserError` for the file of an adapter that is not given."""
    if adapter is None and settings.adapter_weight_name is not None:
        raise UserError("adapter_weight_name names a file of adapter: give that too")


def check_few_step(settings: MethodSettings, few_step_lora: str | None) -> None:
    """Raises `UserError` for a few-step LoRA without its method, and for a method of nothing."""
    if few_step_lora is not None and settings.few_step_method is None:
        raise UserError(f"few_step_lora needs few_step_method, its kind: {', '.join(FEW_STEPS)}")
    if few_step_lora is None and settings.few_step_weight_name is not None:
        raise UserError("few_step_weight_name names a file of few_step_lora: give that too")
