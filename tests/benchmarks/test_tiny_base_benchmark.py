"""What benchmarks/tiny_base.py measures with: the Fréchet distance, what a caption states, and the
program at tiny sizes.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.linalg import sqrtm

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import tiny_base as program
from parts.tiny_base import frechet, sheet
from parts.tiny_base.curves import read_log
from parts.tiny_base.frechet import between_gaussians, frechet_distance
from parts.tiny_base.samples import SAMPLER, cached_samples, load_pipeline, make_samples
from parts.tiny_base.scenes import ATTRIBUTES, stated_in
from parts.tiny_base.sheet import CAPTIONS, OPENING

from sgdmix_hub.demo import world
from sgdmix_hub.demo.birds import COLORS

ROOT = Path(__file__).parents[2]


def test_frechet_distance_of_diagonal_gaussians_is_the_closed_form():
    rng = np.random.default_rng(0)
    means, deviations = rng.normal(size=(2, 40)), rng.uniform(0, 3, (2, 40))
    deviations[:, :5] = 0  # a feature that never fires
    expected = np.square(means[0] - means[1]).sum() + np.square(deviations[0] - deviations[1]).sum()
    turn, _ = np.linalg.qr(rng.normal(size=(40, 40)))
    for basis in (np.eye(40), turn):
        first, second = (
            (basis @ mean, basis @ np.diag(deviation**2) @ basis.T)
            for mean, deviation in zip(means, deviations, strict=True)
        )
        assert between_gaussians(*first, *second) == pytest.approx(expected, rel=1e-7)


def test_frechet_distance_agrees_with_the_matrix_square_root():
    rng = np.random.default_rng(1)
    first, second = (
        rng.normal(size=(300, 12)) @ rng.normal(size=(12, 12)),
        rng.normal(size=(200, 12)) @ rng.normal(size=(12, 12)) + 1,
    )
    covariances = np.cov(first.T), np.cov(second.T)
    root = sqrtm(covariances[0] @ covariances[1]).real
    expected = np.square(first.mean(0) - second.mean(0)).sum() + np.trace(
        covariances[0] + covariances[1] - 2 * root
    )
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-8)
    assert frechet_distance(first, first + 2) == pytest.approx(4 * 12)
    assert frechet_distance(first, first) == pytest.approx(0, abs=1e-8)


def test_a_full_caption_states_everything_and_nothing_that_is_otherwise():
    names = list(ATTRIBUTES)
    for index in range(50):
        bird, background, _ = world.random_scene(np.random.default_rng(index))
        caption = (
            f"a photo of a {bird.body} bird with {', '.join(world.part_phrases(bird))} "
            f"{world.PLACES[background]}"
        )
        states = dict(zip(names, stated_in(caption, bird, background), strict=True))
        assert all(stated for name, stated in states.items() if name != "crest")
        assert states["crest"] == (bird.crest != "none")
        for name in names[1:]:
            other = next(value for value in ATTRIBUTES[name] if value != getattr(bird, name))
            assert not stated_in(caption, replace(bird, **{name: other}), background)[
                names.index(name)
            ]
        other = next(place for place in world.PLACES if place != background)
        assert not stated_in(caption, bird, other)[0]
    assert not any(stated_in("a photo of a bird", bird, background))


def test_the_sheet_asks_in_words_the_base_knows_for_every_kind_and_colour():
    words = set(world.vocabulary())
    assert all(set((OPENING + caption).replace(",", " ,").split()) <= words for caption in CAPTIONS)
    places = [
        sum(caption.endswith(place) for caption in CAPTIONS) for place in world.PLACES.values()
    ]
    assert places == [2] * len(world.PLACES)
    parts = {"wing_pattern": "wings", "tail_shape": "tail", "beak_shape": "beak", "crest": "crest"}
    for name, part in parts.items():
        for kind in set(ATTRIBUTES[name]) - {"none"}:
            assert any(
                f"{kind} {color} {part}" in caption for caption in CAPTIONS for color in COLORS
            ), (kind, part)
    assert all(any(caption.startswith(f"{color} bird") for caption in CAPTIONS) for color in COLORS)


def test_a_log_with_a_repeated_step_keeps_the_later_one(tmp_path):
    records = [("vae", 250, 20.0), ("vae", 500, 21.0), ("vae", 500, 22.0), ("decoder", 250, 23.0)]
    lines = [
        json.dumps({"stage": stage, "step": step, "psnr": psnr}) for stage, step, psnr in records
    ]
    (tmp_path / "log.jsonl").write_text("\n".join(lines))
    stages = read_log(tmp_path / "log.jsonl")
    assert [record["psnr"] for record in stages["vae"]] == [20.0, 22.0]
    assert len(stages["decoder"]) == 1


@pytest.fixture
def pipeline():
    return load_pipeline(ROOT / "sgdmix_hub" / "demo" / "tiny_base")


@pytest.mark.slow
def test_kept_samples_are_not_made_again_and_are_what_the_pipeline_makes(pipeline, tmp_path):
    captions = ["a photo of a bird at night", "a photo of a bird in the snow"]
    once = cached_samples(pipeline, captions, tmp_path)
    (written,) = tmp_path.glob("*.npy")
    before = written.stat().st_mtime_ns
    again = cached_samples(pipeline, captions, tmp_path)
    assert written.stat().st_mtime_ns == before and np.array_equal(once, again)
    assert once.shape == (2, 64, 64, 3) and once[0].mean() < once[1].mean() - 40
    assert np.array_equal(make_samples(pipeline, captions, [0, 1]), once)


@pytest.mark.slow
def test_program_measures_two_bases_side_by_side(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(frechet, "RESAMPLES", 4)
    monkeypatch.setattr(sheet, "CAPTIONS", CAPTIONS[:2])
    monkeypatch.setitem(SAMPLER, "num_inference_steps", 4)
    base = ROOT / "sgdmix_hub" / "demo" / "tiny_base"
    (tmp_path / "log.jsonl").write_text(
        '{"stage": "vae", "step": 1, "psnr": 9}\n{"stage": "unet", "step": 1, "loss": 1}\n'
    )
    folders = [
        word for name in ("work_dir", "docs", "results") for word in (f"--{name}", tmp_path / name)
    ]
    sizes = ["--images", 8, "--judge_images", 64, "--judge_epochs", 1]

    def run(*bases):
        words = ["--bases", *bases, "--log", tmp_path / "log.jsonl", *folders, *sizes]
        monkeypatch.setattr(sys, "argv", ["tiny_base.py", *map(str, words)])
        program.main()

    with pytest.raises(SystemExit) as ended:
        run("a=nowhere")
    assert ended.value.code == 2
    run(f"one={base}", f"two={base}")
    figures = json.loads((tmp_path / "results" / "tiny_base.json").read_text())
    assert figures["bases"]["one"] == figures["bases"]["two"]
    assert figures["bases"]["one"]["reconstructions"]["psnr"] > 20
    printed = capsys.readouterr().out
    assert (tmp_path / "results" / "tiny_base.md").read_text().strip() == printed.strip()
    for name in ("tiny_base.png", "tiny_base_curves.png"):
        assert np.asarray(Image.open(tmp_path / "docs" / name)).std() > 10
