"""`sgdmix PROGRAM --setting value ...`: every program of this package.

    sgdmix run --recipe cub-sgdmix --accelerate gpu8 ...

Runs the program in this process, or with --accelerate through accelerate's launcher. Checks the
settings before it imports torch or starts a process, so --help and mistakes answer at once.
"""

from __future__ import annotations

import importlib
import os
import sys
from dataclasses import dataclass

from ._version import __version__
from .errors import UserError, one_line, shown

# accelerate's own options, accepted among a program's settings if --accelerate is given
LAUNCH_OPTIONS = (
    "num_processes",
    "num_machines",
    "machine_rank",
    "main_process_ip",
    "main_process_port",
    "gpu_ids",
)
EXIT_USER_ERROR = 2


@dataclass(frozen=True)
class Program:
    """One program: its module, its settings as `module:class`, a summary, and whether several
    processes can share its work.
    """

    module: str
    settings: str
    summary: str
    launches: bool = True


PROGRAMS = {
    "run": Program(
        "run",
        "settings.programs:RunSettings",
        "all stages: classifier, adapter, augmented dataset, classifier",
    ),
    "augment": Program(
        "augment",
        "settings.generation:AugmentSettings",
        "apply SGD-Mix to a split; resumes",
    ),
    "train-adapter": Program(
        "train_adapter",
        "settings.adapter_training:AdapterSettings",
        "train an adapter: DreamBooth, LoRA and textual inversion",
    ),
    "train-classifier": Program(
        "train_classifier",
        "settings.training:ClassifierSettings",
        "train a classifier, with or without synthetic images",
    ),
    "evaluate": Program(
        "evaluate_dataset",
        "settings.evaluation:EvaluationSettings",
        "score every row of an augmented dataset; drop the worst",
    ),
    "publish": Program(
        "publish_dataset",
        "settings.programs:PublishSettings",
        "publish a finished dataset as a version on the Hub",
        launches=False,
    ),
    "preview": Program(
        "preview",
        "settings.programs:PreviewSettings",
        "one page of masks and mixtures of your images",
        launches=False,
    ),
    "studio": Program(
        "open_studio",
        "settings.studio:StudioSettings",
        "a page in the browser: choose with your images, or look through a version",
        launches=False,
    ),
}
# Programs that parse their own words.
OTHERS = {
    "demo": ("sgdmix_hub.demo.run_demo", "all stages on drawn birds, offline, in five minutes"),
    "launch": ("sgdmix_hub.engines", "augment as jobs on SLURM, Ray, HF Jobs or this machine"),
    "env": ("sgdmix_hub.runtime.environment", "versions and devices, for a bug report"),
}
USAGE = """\
usage: sgdmix PROGRAM [--accelerate NAME] [--setting value ...]

SGD-Mix augments image-classification datasets and publishes them on the Hugging Face Hub.

{programs}

  sgdmix PROGRAM --help     the program's settings
  --accelerate NAME         start several processes: gpu1, gpu8, cpu2, nodes, or a file of
                            `accelerate config`. It makes these launcher options available:
{options}
  --version"""


def usage() -> str:
    """The text of `sgdmix --help`."""
    summaries = {name: program.summary for name, program in PROGRAMS.items()}
    summaries |= {name: summary for name, (_, summary) in OTHERS.items()}
    return USAGE.format(
        programs="\n".join(f"  {name:<18}{summary}" for name, summary in summaries.items()),
        options="\n".join(f"                              --{name}" for name in LAUNCH_OPTIONS),
    )


def main(argv: list[str] | None = None) -> None:
    """The console command. Exits with the program's code; 2 for a mistake on the command line."""
    words = list(sys.argv[1:] if argv is None else argv)
    name = words[0] if words else "--help"
    try:
        if name in ("--help", "-h"):
            print(usage())
        elif name == "--version":
            print(__version__)
        elif name in PROGRAMS:
            start(PROGRAMS[name], words[1:], f"sgdmix {name}")
        elif name in OTHERS:
            importlib.import_module(OTHERS[name][0]).main(words[1:])
        else:
            raise UserError(f"no program {shown(name)!r}: choose {', '.join([*PROGRAMS, *OTHERS])}")
    except UserError as error:
        print(f"sgdmix_hub: {one_line(str(error))}", file=sys.stderr)
        raise SystemExit(EXIT_USER_ERROR) from None


def start(program: Program, words: list[str], shown_as: str) -> None:
    """Runs a program, through accelerate's launcher if `--accelerate` is given. Raises
    `UserError`.
    """
    from sgdmix_hub.settings.parsing import parse_settings  # takes a second to import

    accelerate, options, words = take_launch_options(words)
    module, _, class_name = program.settings.partition(":")
    settings_class = getattr(importlib.import_module(f"sgdmix_hub.{module}"), class_name)
    sys.argv[0] = shown_as
    parse_settings(settings_class, words)
    if accelerate is None:
        from sgdmix_hub.runtime.launch import launch

        launch(importlib.import_module(f"sgdmix_hub.{program.module}").main, settings_class, words)
        return
    if not program.launches:
        raise UserError(f"{shown_as} runs in one process: remove --accelerate")
    check_gpus(accelerate, options)
    launcher = ["-m", "accelerate.commands.accelerate_cli", "launch", "--config_file", accelerate]
    command = [sys.executable, *launcher, *options, "-m", f"sgdmix_hub.{program.module}", *words]
    os.execv(sys.executable, command)


def check_gpus(config: str, options: list[str]) -> None:
    """Raises `UserError` if a launch on several GPUs starts more processes than this machine has
    GPUs: torch would say so once for each, in a traceback.
    """
    import torch
    import yaml

    with open(config, encoding="utf-8") as file:
        facts = yaml.safe_load(file)
    names = [option.removeprefix("--") for option in options[::2]]
    facts |= dict(zip(names, options[1::2], strict=True))
    hides_gpus = "-1" in str(facts.get("gpu_ids")).split(",")  # as cpu2 does
    if facts.get("use_cpu") or hides_gpus or facts.get("distributed_type") != "MULTI_GPU":
        return
    found = torch.cuda.device_count()
    wanted = int(facts["num_processes"]) // int(facts.get("num_machines", 1))
    if wanted > found:
        advice = f"add --num_processes {found}" if found else "choose --accelerate cpu2"
        raise UserError(
            f"this launch starts {wanted} processes on a machine with {found} GPUs: "
            f"{advice}, or look for the missing ones with sgdmix env"
        )


def take_launch_options(words: list[str]) -> tuple[str | None, list[str], list[str]]:
    """Splits the words into the launch configuration, accelerate's options, and the program's
    words. Raises `UserError`.
    """
    from sgdmix_hub.settings.shipped import accelerate_config

    accelerate, options, rest = None, [], []
    remaining = iter(words)
    for word in remaining:
        name, equals, value = word.removeprefix("--").partition("=")
        if not word.startswith("--") or name not in ("accelerate", *LAUNCH_OPTIONS):
            rest.append(word)
            continue
        value = value if equals else next(remaining, "")
        if not value or value.startswith("--"):
            raise UserError(f"--{name} needs a value")
        if name == "accelerate":
            accelerate = str(accelerate_config(value))
        else:
            options += [f"--{name}", value]
    if options and accelerate is None:
        raise UserError(
            f"{options[0]} is an option of the launcher: give --accelerate too, for example "
            "--accelerate gpu8"
        )
    return accelerate, options, rest


if __name__ == "__main__":
    main()
