"""`sgdmix PROGRAM --setting value ...`: every program of this package, in this process or through
accelerate's launcher.

    sgdmix run --recipe cub-sgdmix --accelerate gpu8 ...

Settings are checked before torch is imported and before any process is started, so `--help` and a
mistake answer at once.
"""

from __future__ import annotations

import importlib
import os
import sys
from dataclasses import dataclass

from ._version import __version__
from .errors import UserError, one_line, shown

# accelerate's own options that may stand among a program's settings, once --accelerate is given
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
    """One program: its module, its settings as `module:class`, what it does, and whether several
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
        "all stages in a row: classifier, adapter, augmented dataset, classifier",
    ),
    "augment": Program(
        "augment", "settings.generation:AugmentSettings", "map SGD-Mix over a split; resumes"
    ),
    "train-adapter": Program(
        "train_adapter",
        "settings.training:AdapterSettings",
        "DreamBooth, LoRA and textual inversion of one domain",
    ),
    "train-classifier": Program(
        "train_classifier",
        "settings.training:ClassifierSettings",
        "with or without synthetic images",
    ),
    "evaluate": Program(
        "evaluate_dataset",
        "settings.evaluation:EvaluationSettings",
        "judge every row; drop the worst",
        launches=False,
    ),
    "publish": Program(
        "publish_dataset",
        "settings.programs:PublishSettings",
        "a finished dataset as a version on the Hub",
        False,
    ),
    "preview": Program(
        "preview",
        "settings.programs:PreviewSettings",
        "masks and mixtures of your images, on one page",
        launches=False,
    ),
}
OTHERS = {
    "demo": "everything on drawn birds, offline, in about three minutes",
    "env": "versions and devices, for a bug report",
}


def usage() -> str:
    """The text of `sgdmix --help`."""
    summaries = {name: program.summary for name, program in PROGRAMS.items()} | OTHERS
    lines = [f"  {name:<17}{summary}" for name, summary in summaries.items()]
    return "\n".join(
        [
            "usage: sgdmix PROGRAM [--accelerate NAME] [--setting value ...]",
            "",
            "SGD-Mix: augments image-classification datasets and publishes them on the Hugging Face Hub.",
            "",
            *lines,
            "",
            "  sgdmix PROGRAM --help     the program's settings",
            "  --accelerate NAME         start several processes: gpu1, gpu8, cpu2, nodes, or a file of",
            "                            `accelerate config`. With it these options of the launcher:",
            *(f"                              --{option}" for option in LAUNCH_OPTIONS),
            "  --version",
        ]
    )


def main(argv: list[str] | None = None) -> None:
    """The console command. Exits with the program's exit code; 2 for a mistake in the command line."""
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
            importlib.import_module(
                {"demo": "sgdmix_hub.demo.run_demo", "env": "sgdmix_hub.runtime.environment"}[name]
            ).main(words[1:])
        else:
            raise UserError(f"no program {shown(name)!r}: {', '.join([*PROGRAMS, *OTHERS])}")
    except UserError as error:
        print(f"sgdmix_hub: {one_line(str(error))}", file=sys.stderr)
        raise SystemExit(EXIT_USER_ERROR) from None


def start(program: Program, words: list[str], shown_as: str) -> None:
    """Runs a program, through accelerate's launcher where `--accelerate` is among the words. Raises
    `UserError`.
    """
    from sgdmix_hub.settings.parsing import parse_settings  # a second

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
        raise UserError(f"{shown_as} runs in one process: leave --accelerate out")
    command = [
        sys.executable,
        "-m",
        "accelerate.commands.accelerate_cli",
        "launch",
        "--config_file",
        accelerate,
        *options,
    ]
    os.execv(sys.executable, [*command, "-m", f"sgdmix_hub.{program.module}", *words])


def take_launch_options(words: list[str]) -> tuple[str | None, list[str], list[str]]:
    """The launch settings that the words name, accelerate's options, and the words that are the
    program's. Raises `UserError`.
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
            f"{options[0]} is the launcher's: give --accelerate too, for example --accelerate gpu8"
        )
    return accelerate, options, rest


if __name__ == "__main__":
    main()
