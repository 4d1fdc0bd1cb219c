"""The published columns `mask` and `mixed`: what they show, and runs that start from them."""

import io

import numpy as np
import pytest
from datasets import load_dataset
from generations import manifest_of, published_rows
from PIL import Image

from sgdmix_hub import augment
from sgdmix_hub.data.images import square
from sgdmix_hub.errors import UserError
from sgdmix_hub.mapped import MappedSplit
from sgdmix_hub.pipeline import SGDMixPipeline
from sgdmix_hub.publishing.read import load_published
from sgdmix_hub.settings.generation import AugmentSettings


def decoded(cell) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(cell["bytes"])))


def test_a_mask_is_what_was_cut_and_the_mixture_what_was_refined(finished_generation, source_rows):
    rows = published_rows(finished_generation)
    masks = {row["source_index"]: decoded(row["mask"]) for row in rows}
    for row in rows:
        file = Image.open(io.BytesIO(row["mask"]["bytes"]))
        assert (file.format, file.mode, file.size) == ("PNG", "1", (32, 32))
        mask, mixed = decoded(row["mask"]), decoded(row["mixed"])
        assert np.array_equal(mask, masks[row["source_index"]]) and mask.any()
        # the preset paper keeps the union of both masks (Eq. 9 and 10)
        union = mask | masks[row["target_index"]]
        assert row["foreground_area"] == union.mean()
        shown = [
            np.asarray(
                square(Image.fromarray(decoded(source_rows[row[name]]["image"])), 32, "stretch")
            )
            for name in ("source_index", "target_index")
        ]
        assert np.array_equal(mixed, np.where(union[..., None], *shown))
        assert not np.array_equal(decoded(row["image"]), mixed)
        stem = f"{row['source_index']:08d}-{row['variant']}"
        assert [row[name]["path"] for name in ("image", "mask", "mixed")] == [
            f"{stem}.png",
            f"{stem}-mask.png",
            f"{stem}-mixed.png",
        ]


@pytest.mark.slow
def test_the_next_run_starts_from_published_mixtures_and_masks(finished_generation, tmp_path):
    first = published_rows(finished_generation)
    settings = AugmentSettings(
        dataset_name=str(finished_generation / "repo"),
        output_dir=str(tmp_path / "run"),
        image_column="mixed",
        mask_column="mask",
        strength=0.0,
        feather=0.0,
        resolution=32,
        max_skipped=1.0,
        image_format="png",
    )
    augment.main(settings)
    rows = published_rows(tmp_path / "run")
    assert len(rows) == len(first) - len(manifest_of(tmp_path / "run")["skipped"]) > 0
    for row in rows:
        source = first[row["source_index"]]
        mask = decoded(row["mask"])
        assert row["mask"]["bytes"] == source["mask"]["bytes"] and row["label"] == source["label"]
        assert row["foreground_area"] == mask.mean()
        assert np.array_equal(decoded(row["image"])[mask], decoded(source["mixed"])[mask])


def test_load_published_decodes_them(finished_generation):
    published = load_published(str(finished_generation / "repo"))
    row = published.dataset[0]
    assert (row["mask"].mode, row["mixed"].mode, row["mask"].size) == ("1", "RGB", (32, 32))
    assert {"bytes", "path"} == set(published.rows[0]["mask"]) == set(published.rows[0]["mixed"])


def test_the_card_makes_boxes_of_the_masks(finished_generation):
    card = (finished_generation / "repo" / "README.md").read_text()
    (line,) = [line for line in card.splitlines() if line.startswith("boxed = ")]
    dataset = load_dataset(str(finished_generation / "repo"), split="train")
    names = {"dataset": dataset}
    exec(line, names)
    for row, box in zip(dataset, names["boxed"]["box"], strict=True):
        inside = np.argwhere(np.asarray(row["mask"]))
        (top, left), (bottom, right) = inside.min(0), inside.max(0) + 1
        assert box == [left, top, right, bottom]


@pytest.mark.slow
def test_settings_leave_the_columns_out(birds, tmp_path):
    asked = {"dataset_name": str(birds), "strength": 0.0, "resolution": 32, "preset": "paper"}
    asked["saliency_method"] = "spectral-residual"
    augment.main(AugmentSettings(output_dir=str(tmp_path / "run"), publish_mask=False, **asked))
    repo = tmp_path / "run" / "repo"
    assert not {"mask", "mixed"} & set(load_dataset(str(repo), split="train").column_names)
    assert "getbbox" not in (repo / "README.md").read_text()
    with pytest.raises(UserError, match="publish_mixed needs a strength above 0"):
        AugmentSettings(output_dir="run", publish_mixed=True, **asked).validate()


def test_a_mapped_split_has_the_same_columns(birds):
    dataset = load_dataset(str(birds), split="train").select(range(6))
    pipeline = SGDMixPipeline.from_pretrained(
        preset="paper", saliency_method="spectral-residual", strength=0, resolution=32
    )
    whole = MappedSplit(pipeline, dataset, publish_mixed=True)
    rows = dataset.map(whole, **whole.options)
    assert rows.column_names[-2:] == ["mask", "mixed"]
    for row in rows:
        mask = whole.maker.masked_image(row["source_index"]).mask
        assert np.array_equal(np.asarray(row["mask"]), mask)
        assert row["mixed"].tobytes() == row["image"].tobytes()
    plain = MappedSplit(pipeline, dataset, publish_mask=False)
    assert not {"mask", "mixed"} & set(dataset.map(plain, **plain.options).column_names)
    assert plain.options["new_fingerprint"] != whole.options["new_fingerprint"]
