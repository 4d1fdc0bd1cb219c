"""Trains one adapter for a domain: DreamBooth, LoRA on the UNet's attention, and learned tokens.

    training (checkpoints in state/) -> files that diffusers loads -> judge -> card -> push

A step is skipped if its result exists, so the same command resumes a stopped run. The samples of an
optimizer step are a function of (seed, step): a killed and resumed training ends with the same
weights, and several processes train on the same images and noise as one.
"""

from __future__ import annotations

from pathlib import Path

import torch
from accelerate import Accelerator

from sgdmix_hub.data.splits import Split, load_split, subset_record
from sgdmix_hub.evaluation.adapter import judge_adapter
from sgdmix_hub.figures.plots import draw_curve
from sgdmix_hub.hub.licences import Licence, check_license, licence_line, licence_of
from sgdmix_hub.hub.pins import Pin, resolve
from sgdmix_hub.models.adapters import FACTS_FILE, save_adapter
from sgdmix_hub.models.bases.supported import check_supported
from sgdmix_hub.models.classifier import Judge
from sgdmix_hub.models.prompts import token_for
from sgdmix_hub.output_folder import OutputFolder
from sgdmix_hub.publishing.model_card import write_adapter_card
from sgdmix_hub.runtime.environment import versions
from sgdmix_hub.runtime.launch import launch
from sgdmix_hub.runtime.ranks import on_rank_zero, say, start_processes, wait_for_everyone
from sgdmix_hub.runtime.stopping import forget_failure, lock_folder, wait_for_file
from sgdmix_hub.settings.adapter_training import AdapterSettings
from sgdmix_hub.settings.training import recorded
from sgdmix_hub.training.adapter.loop import train, validation_sheet
from sgdmix_hub.training.adapter.memory import memory_text
from sgdmix_hub.training.log import TrainingLog, check_tracker
from sgdmix_hub.training.precision import precision_of
from sgdmix_hub.training.resume import check_push, is_finished, push_trained
from sgdmix_hub.training.share import Share, share_of

from .files import fill_folder, read_json

LOSS_PICTURE, SAMPLES_PICTURE = "assets/loss.png", "assets/samples.png"


def main(settings: AdapterSettings) -> None:
    """One training. Raises `UserError`, `Preempted`."""
    settings.validate()
    folder = Path(settings.output_dir)
    state = OutputFolder(folder).state
    rank = start_processes(settings.num_threads)
    share = share_of(settings, rank)
    with lock_folder(state, finished=folder / FACTS_FILE):
        check_tracker(settings.report_to)
        on_rank_zero(lambda: check_push(settings))
        split = load_split(
            settings, on_rank_zero(lambda: resolve(settings.dataset_name, repo_type="dataset"))
        )
        base = on_rank_zero(lambda: resolve(settings.pretrained_model_name_or_path))
        judge = None
        if (name := settings.judge) is not None:
            judge = on_rank_zero(lambda: resolve(name))
            # refuses one that cannot judge before the training, not after it
            Judge(judge, split.class_names, torch.device("cpu"))
        licence = on_rank_zero(lambda: licence_of(base))
        say(licence_line(base, licence))
        facts = adapter_facts(settings, split, base)
        finished = on_rank_zero(lambda: is_finished(folder / FACTS_FILE, facts))
        check_base_license(settings, licence, folder)
        if finished:
            say(f"adapter: {folder} is complete, nothing to train")
        else:
            on_rank_zero(lambda: check_family(settings, base))
            say(on_rank_zero(lambda: memory_text(settings, base)))
            train_and_save(settings, split, base, licence, facts, share, folder)
        if judge is not None:
            judge_adapter(settings, split, base, judge, folder)
        if rank.is_main_process:
            write_adapter_card(settings, folder, licence)
            push_trained(settings, folder, f"Adapter of {len(split.class_names)} classes")
            forget_failure(state)
        wait_for_everyone()


def check_family(settings: AdapterSettings, base: Pin) -> None:
    """Raises `UserError` for settings that are not for the base's family."""
    family = check_supported(base)
    family.check_loss(settings.snr_gamma, settings.weighting_scheme)
    family.check_tokens(settings.token_place)
    family.check_precision("mixed_precision", settings.mixed_precision)


def check_base_license(settings: AdapterSettings, licence: Licence, folder: Path) -> None:
    """Raises `UserError` if the adapter must not be pushed under its licence, for the one of its
    base: as the card states it now, or as a finished training recorded it.
    """
    if not settings.push_to_hub:
        return
    known = [licence]
    if (path := folder / FACTS_FILE).is_file():
        known.append(Licence(read_json(path)["base_license"]))
    for each in known:
        check_license(each, settings.license, settings.allow_license)


def train_and_save(
    settings: AdapterSettings,
    split: Split,
    base: Pin,
    licence: Licence,
    facts: dict,
    share: Share,
    folder: Path,
) -> None:
    """Trains, and writes the adapter's files. A collective."""
    state = OutputFolder(folder).state
    accelerator = Accelerator(
        cpu=not torch.cuda.is_available(),
        mixed_precision=precision_of(settings),
        log_with=None if settings.report_to == "none" else settings.report_to,
        project_dir=str(state),
    )
    if settings.report_to != "none":
        accelerator.init_trackers("sgdmix_hub_adapter", config=facts["settings"])
    model, steps = train(settings, split, base, facts, accelerator, share, state)
    for tracker in accelerator.trackers:  # end_training would end the process group too
        tracker.finish()
    if accelerator.is_main_process:
        curve = TrainingLog(OutputFolder(folder).training_log).curve()
        results = {
            "loss_curve": curve,
            "base_license": licence.text,
            **({"base_gated": True} if licence.gated else {}),
            "versions": versions(),
            "num_processes": accelerator.num_processes,
            "precision": precision_of(settings),
            "steps": steps,
        }

        def write(working: Path) -> None:
            save_adapter(
                working,
                model.family,
                model.denoiser,
                model.token_tensors(),
                settings.num_vectors,
                facts | results,
            )
            draw_curve(curve, working / LOSS_PICTURE)
            sheet = validation_sheet(state, steps)
            (working / SAMPLES_PICTURE).write_bytes(sheet.read_bytes())

        fill_folder(folder, write, last=FACTS_FILE)
    wait_for_file(folder / FACTS_FILE)  # a shared file system may show it late
    say(f"adapter: trained for {steps} steps, saved in {folder}")


def adapter_facts(settings: AdapterSettings, split: Split, base: Pin) -> dict:
    """Identity of the training, for adapter.json: classes and their tokens, prompt, pins, subset,
    recorded settings.
    """
    labels = range(len(split.class_names))
    return {
        "class_names": split.class_names,
        "tokens": [token_for(label) for label in labels if settings.num_vectors > 0],
        "metaclass": settings.metaclass,
        "prompt_template": settings.prompt_template,
        "base": str(base),
        "subset": subset_record(settings, split),
        "settings": recorded(settings),
    }


if __name__ == "__main__":
    launch(main, AdapterSettings)
