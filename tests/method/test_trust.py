"""The trust test on classifiers that are known to read the foreground or the background, and what a
run makes of it.
"""

import json
import re

import numpy as np
import pytest
import torch
from generations import arguments, digests, manifest_of, run_script, snapshot, write_dataset
from launching import launch
from transformers import AutoModelForImageClassification, ViTImageProcessor

from sgdmix_hub import preview
from sgdmix_hub.data.splits import load_split
from sgdmix_hub.demo.domain import make_dataset, save_dataset
from sgdmix_hub.files import read_sealed
from sgdmix_hub.generation.saliency_maps import compute_maps
from sgdmix_hub.hub.pins import resolve
from sgdmix_hub.method.saliency import trust as trust_module
from sgdmix_hub.method.saliency.model_free import minimum_barrier_map
from sgdmix_hub.method.saliency.trust import Trust, trust_test
from sgdmix_hub.models.classifier import Classifier
from sgdmix_hub.settings.generation import AugmentSettings
from sgdmix_hub.settings.presets import apply_preset
from sgdmix_hub.settings.programs import PreviewSettings

CPU = torch.device("cpu")
INPUT = 64


@pytest.fixture(scope="module")
def tied_birds(tmp_path_factory):
    """The species of `birds`, each shown on a background of its own kind."""
    folder = tmp_path_factory.mktemp("data") / "tied"
    save_dataset(make_dataset(4, 8, 1, 1, seed=0, tie=1.0, resolution=INPUT), folder)
    return folder


@pytest.fixture(scope="module")
def tied_split(tied_birds):
    return load_split(
        settings_of(tied_birds, "unused", "unused"), resolve(str(tied_birds), repo_type="dataset")
    )


@pytest.fixture(scope="module")
def reader_of(tied_split, classifier, tmp_path_factory):
    """`reader_of(side)`: the folder of the ResNet of `classifier`, trained on what the TRUE masks
    leave of the tied birds: their `foreground` or their `background`; in place of the other is one
    colour, another every time.
    """

    def train(side):
        torch.manual_seed(0)
        model = AutoModelForImageClassification.from_pretrained(classifier).train()
        images = [np.asarray(tied_split.image(row)) for row in tied_split.subset]
        masks = [np.asarray(tied_split.image(row, "mask")) > 0 for row in tied_split.subset]
        pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 127.5 - 1
        shown = torch.from_numpy(np.stack(masks))[:, None] == (side == "foreground")
        labels = torch.from_numpy(tied_split.labels[tied_split.subset])
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        for _ in range(150):
            other = torch.rand(len(pixels), 3, 1, 1) * 1.2 - 0.6
            loss = model(pixel_values=torch.where(shown, pixels, other), labels=labels).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if loss < 0.05:
                break
        assert loss < 0.3
        folder = tmp_path_factory.mktemp("models") / side
        model.save_pretrained(folder)
        ViTImageProcessor(size={"height": INPUT, "width": INPUT}).save_pretrained(folder)
        return folder

    made = {side: train(side) for side in ("foreground", "background")}
    return made.__getitem__


def wilson(right, images, z=1.959964):
    """Wilson's interval, from its formula."""
    share = right / images
    middle, width = (
        share + z * z / (2 * images),
        z * np.sqrt(share * (1 - share) / images + z * z / (4 * images * images)),
    )
    return (middle - width) / (1 + z * z / images), (middle + width) / (1 + z * z / images)


def settings_of(dataset, classifier, output, **values):
    chosen = {
        "preset": "paper",
        "saliency_method": "grad-cam",
        "strength": 0.0,
        "resolution": 32,
    } | values
    return apply_preset(
        AugmentSettings(
            dataset_name=str(dataset), classifier=str(classifier), output_dir=str(output), **chosen
        )
    )


def trust_in(folder, split, resize="stretch"):
    return trust_test(Classifier(resolve(str(folder)), CPU), INPUT, split, resize)


@pytest.fixture(scope="module")
def trusts(reader_of, tied_split):
    """What the test says of both readers, by their sides."""
    return {side: trust_in(reader_of(side), tied_split) for side in ("foreground", "background")}


# ---- the test ----


@pytest.mark.slow
def test_each_reader_is_right_on_its_side(trusts, tied_split):
    foreground, background = trusts["foreground"], trusts["background"]
    assert foreground.images == background.images == len(tied_split.subset)
    assert not foreground.reads_background and background.reads_background
    assert foreground.foreground_accuracy > foreground.background_accuracy + 0.2
    assert background.background_accuracy > background.foreground_accuracy + 0.2
    for trust in (foreground, background):
        assert f"{trust.foreground_accuracy:.2f} of 32 images by their foreground" in str(trust)
        assert f"{trust.background_accuracy:.2f} by their background" in str(trust)
        for accuracy, stated in zip(
            vars(trust).values(), re.findall(r"([\d.]+) to ([\d.]+)", str(trust)), strict=False
        ):
            low, high = wilson(round(accuracy * 32), 32)
            assert stated == (f"{low:.2f}", f"{high:.2f}")


@pytest.mark.slow
def test_the_same_images_give_the_same_answer(reader_of, trusts, tied_split):
    assert trust_in(reader_of("background"), tied_split) == trusts["background"]


@pytest.mark.slow
@pytest.mark.parametrize("answer", [0, 3])
def test_a_classifier_of_one_answer_is_right_on_one_class_and_reads_nothing(
    answer, classifier, tied_split, tmp_path
):
    model = AutoModelForImageClassification.from_pretrained(classifier)
    torch.nn.init.zeros_(model.classifier[1].weight)
    with torch.no_grad():
        model.classifier[1].bias.copy_(torch.nn.functional.one_hot(torch.tensor(answer), 4))
    model.save_pretrained(tmp_path)
    ViTImageProcessor.from_pretrained(classifier).save_pretrained(tmp_path)
    trust = trust_in(tmp_path, tied_split)
    assert trust == Trust(0.25, 0.25, len(tied_split.subset)) and not trust.reads_background


@pytest.mark.slow
def test_damaged_images_are_left_out(classifier, source_rows, tmp_path):
    images = [row["image"]["bytes"] for row in source_rows]
    images[3] = b"no image"
    folder = write_dataset(tmp_path / "data", images, [row["label"] for row in source_rows])
    split = load_split(
        settings_of(folder, "unused", "unused"), resolve(str(folder), repo_type="dataset")
    )
    assert trust_in(classifier, split).images == 23


@pytest.mark.slow
def test_a_large_subset_is_drawn_from(classifier, tied_split, monkeypatch):
    monkeypatch.setattr(trust_module, "TRUST_ROWS", 20)
    assert len(tied_split.subset) == 32 and trust_in(classifier, tied_split).images == 20


# ---- what follows from it ----


def warnings_in(text):
    return [line for line in text.splitlines() if "reads the background" in line]


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["paper", "recommended"])
@pytest.mark.parametrize("side", ["foreground", "background"])
def test_only_recommended_falls_back_and_only_from_a_reader_of_backgrounds(
    preset, side, reader_of, trusts, tied_birds, tied_split, tmp_path, caplog
):
    asked = settings_of(tied_birds, reader_of(side), tmp_path, preset=preset)
    maps = compute_maps(asked, tied_split, resolve(asked.classifier), 0, 1, CPU)
    falls = preset == "recommended" and side == "background"
    assert (
        maps.method == ("minimum-barrier" if falls else "grad-cam") == maps.key.rpartition("-")[0]
    )
    assert maps.trust == trusts[side]
    warnings = warnings_in(caplog.text)
    assert len(warnings) == (side == "background")
    assert all(
        ("using minimum-barrier instead" in line) == falls and str(maps.trust) in line
        for line in warnings
    )
    for row in tied_split.subset[:4] if falls else []:
        assert np.array_equal(
            maps[row], minimum_barrier_map(tied_split.image(row), "stretch").astype(np.float16)
        )


@pytest.mark.slow
def test_the_preset_can_be_overruled(reader_of, tied_birds, tied_split, tmp_path):
    for preset, wish, method in (
        ("recommended", "warn", "grad-cam"),
        ("paper", "fall-back", "minimum-barrier"),
    ):
        asked = settings_of(
            tied_birds, reader_of("background"), tmp_path / preset, preset=preset, trust_test=wish
        )
        assert (
            compute_maps(asked, tied_split, resolve(asked.classifier), 0, 1, CPU).method == method
        )


@pytest.mark.slow
def test_runs_of_one_saliency_dir_share_test_and_maps(
    reader_of, tied_birds, tied_split, tmp_path, caplog
):
    """Whether they fell back or asked for minimum-barrier; another method through the same
    classifier is tested for itself.
    """
    shared = tmp_path / "maps"
    asked = settings_of(
        tied_birds,
        reader_of("background"),
        tmp_path / "a",
        preset="recommended",
        saliency_dir=str(shared),
    )
    first = compute_maps(asked, tied_split, resolve(asked.classifier), 0, 1, CPU)
    before = snapshot(shared)
    assert sorted(path.name for path in shared.rglob("trust.json")) == ["trust.json"]
    again = settings_of(
        tied_birds,
        reader_of("background"),
        tmp_path / "b",
        preset="recommended",
        saliency_dir=str(shared),
    )
    second = compute_maps(again, tied_split, resolve(again.classifier), 0, 1, CPU)
    direct = settings_of(
        tied_birds,
        "unused",
        tmp_path / "c",
        saliency_method="minimum-barrier",
        saliency_dir=str(shared),
    )
    third = compute_maps(direct, tied_split, None, 0, 1, CPU)
    assert snapshot(shared) == before and first.key == second.key == third.key
    assert second.trust == first.trust and third.trust is None
    assert len(warnings_in(caplog.text)) == 2  # one a run, also where the test was another's


@pytest.mark.slow
@pytest.mark.parametrize(
    ("side", "taken"), [("foreground", "grad-cam"), ("background", "minimum-barrier")]
)
def test_a_preview_shows_the_masks_that_a_generation_would_take(
    side, taken, reader_of, tied_birds, tmp_path, capsys
):
    preview.main(
        PreviewSettings(
            dataset_name=str(tied_birds),
            classifier=str(reader_of(side)),
            saliency_method="grad-cam",
            resolution=32,
            num_images=2,
            examples_per_class=3,
            output_dir=str(tmp_path),
        )
    )
    masks = json.loads((tmp_path / "preview.json").read_text())["masks"]
    (shown,) = [of for of in masks if "recommended" in of["presets"]]
    assert shown["saliency_method"] == taken
    falls_back = "recommended uses minimum-barrier instead" in capsys.readouterr().out
    assert falls_back == (side == "background")


@pytest.mark.soak
def test_a_run_of_two_processes_falls_back_says_so_once_and_tells_it_on_the_card(
    reader_of, tied_birds, tmp_path
):
    chosen = {
        "dataset_name": tied_birds,
        "classifier": reader_of("background"),
        "preset": "recommended",
        "saliency_method": "grad-cam",
        "strength": 0,
        "resolution": 32,
        "rows_per_shard": 8,
    }
    done = launch(
        ["scripts/augment_dataset.py", *arguments(chosen | {"output_dir": tmp_path / "two"})], 2
    )
    assert done.returncode == 0, done.stderr
    assert len(warnings_in(done.stdout + done.stderr)) == 1
    facts = manifest_of(tmp_path / "two")["saliency"]
    trust = Trust(**facts["trust"])
    assert facts["method"] == "minimum-barrier" and trust.reads_background
    card = (tmp_path / "two" / "repo" / "README.md").read_text()
    assert (
        "| saliency method | minimum-barrier (instead of grad-cam, which failed the trust test) |"
        in card
    )
    told = f"accuracy {trust.foreground_accuracy:.2f} on {trust.images} images"
    assert f"| trust test of the classifier | {told} from their foreground alone, " in card
    one = run_script(arguments(chosen | {"output_dir": tmp_path / "one"}), tmp_path / "logs")
    assert one.returncode == 0, one.stderr
    assert digests(tmp_path / "one" / "repo") == digests(tmp_path / "two" / "repo")
    (told,) = (tmp_path / "one" / "state" / "saliency").rglob("trust.json")
    assert Trust(**read_sealed(told)) == trust
