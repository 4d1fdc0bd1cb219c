"""Publish the demo's dataset to a Hub on this machine, load it by tag, and make it again.

python -m sgdmix_hub.demo.publish_birds --config outputs/demo/run.yaml

    source and models pushed -> v1.0.0 published -> v1.1.0 generated and published -> both
    loaded by tag -> v1.1.0 made again

v1.0.0 is the demo's dataset. It was made from local folders, so publishing it needs
--allow_local_inputs. v1.1.0, at S = 0, is made only from the pushed source and segmenter, so
anybody who reads the Hub can make it again. Every step is a program that a user runs, in a
separate process. The Hub lives in memory and ends with this program; outputs are in `hub/` of the
run's folder.
"""

import argparse
import dataclasses
import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from sgdmix_hub.errors import UserError
from sgdmix_hub.settings.adapter_training import AdapterSettings
from sgdmix_hub.settings.generation import AugmentSettings
from sgdmix_hub.settings.parsing import as_arguments, read_yaml
from sgdmix_hub.settings.shipped import recipe_folder
from sgdmix_hub.settings.training import ClassifierSettings

from .loopback_hub import READ_TOKEN, WRITE_TOKEN, hub_environment, loopback_hub

SOURCE, DATASET = "birds/demo-birds", "birds/demo-birds-sgdmix"
SEGMENTER = "birds/demo-segmenter"
FIRST, SECOND = "v1.0.0", "v1.1.0"
LOAD = """
import sys
from datasets import load_dataset
from sgdmix_hub import load_published

repo_id, *versions = sys.argv[1:]
for version, folder in (word.split("=") for word in versions):
    rows = load_dataset(repo_id, revision=version, split="train")
    verified = load_published(f"{repo_id}@{version}").dataset
    made = load_published(folder).dataset
    tables = [loaded.data.table for loaded in (rows, verified)]
    if not all(table.equals(made.data.table) for table in tables):
        sys.exit(f"{repo_id}@{version} and {folder} have different rows")
    strengths = ", ".join(map(str, sorted(set(rows["strength"]))))
    print(f"{version}: {len(rows)} rows, S = {strengths}, equal to {folder}, image for image")
"""


def parse_args(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--config",
        type=Path,
        required=True,
        help="run.yaml, written by `sgdmix demo`",
    )
    return parser.parse_args(argv)


class Failed(Exception):
    """A program ended with a non-zero exit code."""


def as_user(hub, token, command, shown=None):
    """Runs a program with separate caches; prints the command and its output. Raises `Failed`."""
    print(f"$ {shown or shlex.join(command)}", flush=True)
    environment = hub_environment(hub, token) | {"NO_COLOR": "1"}
    program = {
        "python": [],
        "sgdmix": ["-m", "sgdmix_hub.cli"],
        "hf": ["-m", "huggingface_hub.cli.hf"],
    }[command[0]]
    done = subprocess.run(
        [sys.executable, *program, *command[1:]],
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise Failed(f"{done.stderr.strip()}\n{command[0]} ended with exit code {done.returncode}")
    said = done.stdout.replace(environment["HF_HOME"], "$HF_HOME")
    print(
        "".join(f"  {line.strip()}\n" for line in said.splitlines() if line.strip()),
        end="",
        flush=True,
    )


def given(run, settings_class, recipe_file):
    """Command-line words for one stage: the recipe's file, then the run's own settings."""
    known = {field.name for field in dataclasses.fields(settings_class)}
    return [
        "--config",
        str(recipe_folder(run["recipe"]) / recipe_file),
        *as_arguments({name: value for name, value in run.items() if name in known}),
    ]


def push_inputs(hub, run, work):
    """Pushes the source, the segmenter, the classifier and the adapter.

    The models are copies: pushing adds a licence to their cards, which would change the content
    hash that a generation pinned.
    """
    as_user(
        hub,
        WRITE_TOKEN,
        ["hf", "upload", SOURCE, run["dataset_name"], ".", "--repo-type", "dataset"],
    )
    as_user(hub, WRITE_TOKEN, ["hf", "upload", SEGMENTER, run["segmenter"], "."])
    for name, settings_class in {
        "classifier": ClassifierSettings,
        "adapter": AdapterSettings,
    }.items():
        folder = shutil.copytree(
            Path(run["output_dir"]) / name, work / name, ignore=shutil.ignore_patterns("state")
        )
        words = given(run | {"output_dir": str(folder)}, settings_class, f"{name}.yaml")
        as_user(
            hub,
            WRITE_TOKEN,
            [
                "sgdmix",
                f"train-{name}",
                *words,
                "--push_to_hub",
                "--hub_model_id",
                f"birds/demo-{name}",
            ],
        )


def publish_versions(hub, run, second):
    """Publishes the demo's dataset, then one at S = 0 made only from the pushed source."""
    most = read_yaml(recipe_folder(run["recipe"]) / "generate.yaml")["max_skipped"]
    words = [
        "--hub_dataset_id",
        DATASET,
        "--tag",
        FIRST,
        "--allow_local_inputs",
        f"--max_skipped={most}",
    ]
    as_user(hub, WRITE_TOKEN, ["sgdmix", "publish", "--folder", run["output_dir"], *words])
    pushed = {
        "dataset_name": SOURCE,
        "segmenter": SEGMENTER,
        "segmenter_prompt": run["metaclass"],
        "output_dir": str(second),
    }
    words = given(run | pushed, AugmentSettings, "generate.yaml")
    words += [
        "--card",
        str(recipe_folder(run["recipe"]) / "card.md"),
        "--preset",
        "recommended",
        "--strength",
        "0",
    ]
    words += ["--push_to_hub", "--hub_dataset_id", DATASET, "--tag", SECOND]
    as_user(hub, WRITE_TOKEN, ["sgdmix", "augment", *words])


def make_again(hub, second, again):
    """Reruns the generation from the Hub; raises `Failed` if plan or shards differ."""
    config = f"hf://datasets/{DATASET}@{SECOND}/sgdmix/default/config.yaml"
    as_user(hub, READ_TOKEN, ["sgdmix", "augment", "--config", config, "--output_dir", str(again)])
    published, made = (checksums(folder / "repo") for folder in (second, again))
    if published != made:
        raise Failed(
            f"{again} is not {SECOND}: "
            f"{sorted(name for name in published if published[name] != made.get(name))} differ"
        )
    print(
        f"  {SECOND} made again: the same plan and the same {len(made) - 1} shards, byte for byte"
    )


def checksums(repo):
    """sha256 of plan and shards, from the manifest."""
    files = json.loads((repo / "sgdmix" / "default" / "manifest.json").read_text())["files"]
    return {name: facts["sha256"] for name, facts in files.items() if name.endswith(".parquet")}


def main(argv=None):
    try:
        run = read_yaml(parse_args(argv).config)
        output = Path(run["output_dir"])
        for name in ("classifier/classifier.json", "adapter/adapter.json", "repo/README.md"):
            if not (output / name).is_file():
                raise UserError(f"{output / name} is missing: run `make demo` first")
    except UserError as error:
        print(f"publish_birds: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    work = output / "hub"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    try:
        with loopback_hub() as hub:
            print(f"A Hub on this machine, in memory: HF_ENDPOINT={hub.url}")
            push_inputs(hub, run, work)
            publish_versions(hub, run, work / SECOND)
            loads = [f"{FIRST}={output / 'repo'}", f"{SECOND}={work / SECOND / 'repo'}"]
            shown = (
                f'load_dataset("{DATASET}", revision="{FIRST}", split="train"), '
                f'load_published("{DATASET}@{FIRST}").dataset'
            )
            as_user(
                hub,
                READ_TOKEN,
                ["python", "-c", LOAD, DATASET, *loads],
                shown=f"{shown}; the same with {SECOND}",
            )
            make_again(hub, work / SECOND, work / "again")
            names = sorted(hub.content("dataset", DATASET, SECOND))
            shards = [name for name in names if name.startswith("data/")]
            print(
                f"{DATASET}@{SECOND} holds {shards[0]} ({len(shards)} of them), "
                f"{', '.join(sorted(set(names) - set(shards)))}"
            )
    except Failed as error:
        print(f"publish_birds: {error}", file=sys.stderr)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
