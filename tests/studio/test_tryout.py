"""What the studio shows of a dataset is what a generation makes, and nothing is made twice."""

import dataclasses

import numpy as np
import pytest
import torch
from generations import pixels_of, published_rows

from sgdmix_hub import augment
from sgdmix_hub.errors import Unusable, UserError
from sgdmix_hub.settings.generation import AugmentSettings
from sgdmix_hub.studio import tryout as module
from sgdmix_hub.studio.tryout import Tryout

CPU = torch.device("cpu")


def start(birds, **values):
    return AugmentSettings(
        dataset_name=str(birds), output_dir="outputs", **({"strength": 0.0} | values)
    )


def shown(tryout, chosen):
    """Every drawn row's mixture, by the row."""
    settings = tryout.mixing(chosen)
    known = tryout.known_maps(settings)
    for _ in known.make(tryout.split.subset.tolist()):
        pass
    plan, _ = tryout.plan(settings, known.maps)
    maker = tryout.maker(settings, known.maps)
    return {row: maker.mixture_or_reason(plan[row]) for row in tryout.rows}


@pytest.mark.slow
def test_mixtures_are_those_of_a_generation_with_the_same_settings(birds, tmp_path):
    chosen = start(
        birds,
        saliency_method="spectral-residual",
        resolution=64,
        image_format="png",
        num_workers=1,
    )
    mixtures = shown(Tryout(chosen, 100, 64, CPU), chosen)
    augment.main(dataclasses.replace(chosen, output_dir=str(tmp_path / "out"), max_skipped=1.0))
    made = {row["source_index"]: row for row in published_rows(tmp_path / "out")}
    assert len(made) > 10
    for row, mixture in mixtures.items():
        assert isinstance(mixture, Unusable) == (row not in made)
        if row in made:
            np.testing.assert_array_equal(mixture.mixed, pixels_of(made[row]))


@pytest.mark.slow
def test_maps_and_masks_are_made_once_for_all_settings_that_share_them(birds, monkeypatch):
    made = []
    found = module.KnownMaps.make

    def counted(self, rows):
        made.extend(row for row in rows if row not in self.known.values)
        yield from found(self, rows)

    monkeypatch.setattr(module.KnownMaps, "make", counted)
    tryout = Tryout(start(birds), 24, 64, CPU)
    one, other = (
        start(birds, saliency_method="spectral-residual", mixing_method=method)
        for method in ("union", "inpaint")
    )
    first, second = shown(tryout, one), shown(tryout, other)
    assert len(made) == 24
    row = next(row for row, mixture in first.items() if not isinstance(mixture, Unusable))
    assert first[row].source is second[row].source
    shown(tryout, start(birds, saliency_method="minimum-barrier"))
    assert len(made) == 48


def test_excluded_rows_are_neither_mixed_nor_targets(birds):
    chosen = start(birds, saliency_method="spectral-residual", excluded_rows=[2, 5])
    tryout = Tryout(start(birds), 24, 64, CPU)
    settings = tryout.mixing(chosen)
    known = tryout.known_maps(settings)
    list(known.make(tryout.split.subset.tolist()))
    plan, reasons = tryout.plan(settings, known.maps)
    assert {2, 5} <= set(reasons)
    assert plan[2].skip == "excluded by the settings"
    assert not {row.target_index for row in plan.values()} & {2, 5}


@pytest.mark.slow
def test_refinement_is_made_on_demand_with_one_loaded_model(birds, tiny_base):
    chosen = start(
        birds,
        strength=0.5,
        pretrained_model_name_or_path=str(tiny_base),
        resolution=32,
        saliency_method="spectral-residual",
        num_inference_steps=4,
    )
    tryout = Tryout(chosen, 8, 64, CPU)
    list(tryout.known_maps(tryout.mixing(chosen)).make(tryout.split.subset.tolist()))
    rows = tryout.rows[:2]
    assert tryout._refiners == {}
    refined = {row: (prompt, image) for row, prompt, image in tryout.refined(chosen, rows)}
    assert list(refined) == rows
    for prompt, image in refined.values():
        assert prompt.startswith("a photo of a ")
        assert image.shape == (32, 32, 3)
    (loaded,) = tryout._refiners.values()
    list(tryout.refined(dataclasses.replace(chosen, strength=[0.75]), rows))
    assert [one.denoiser for one in tryout._refiners.values()] == [loaded.denoiser]


def test_an_adapter_of_other_classes_is_refused_in_one_line(evil_source, adapter, tiny_base):
    base = str(tiny_base)
    chosen = start(evil_source, adapter=str(adapter), pretrained_model_name_or_path=base)
    tryout = Tryout(chosen, 4, 64, CPU)
    with pytest.raises(UserError, match="other classes"):
        tryout.known_maps(tryout.mixing(chosen))
