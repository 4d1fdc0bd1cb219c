"""SGDMixPipeline loaded, saved, pushed, and saved by a stranger."""

import json

import numpy as np
import pytest
from called import SIZE, SMALL
from loopback_hub import READ_TOKEN, run_python

from sgdmix_hub.errors import UserError
from sgdmix_hub.models.saved import PIPELINE_FILE
from sgdmix_hub.pipeline import SGDMixPipeline

TOO_LONG = r"takes \d+ tokens, the text encoder reads \d+: shorten it"


def test_an_adapter_brings_its_base_or_is_named_beside_it(tiny_base, adapter):
    first = SGDMixPipeline.from_pretrained(str(tiny_base), adapter=str(adapter), **SMALL)
    assert first.class_names is not None and set(first.pins) == {
        "adapter",
        "pretrained_model_name_or_path",
    }
    with pytest.raises(UserError, match="local folder: give its path"):
        SGDMixPipeline.from_pretrained(str(adapter), **SMALL)
    with pytest.raises(UserError, match="needs a base model or an adapter"):
        SGDMixPipeline.from_pretrained(**SMALL)


def test_prompts_that_the_text_encoder_would_cut_off_are_refused(
    tiny_base, adapter, unmixing, pairs
):
    """Where they are named, or in the call that brings them."""
    long = " ".join(["snow"] * 80)
    for settings in (
        {"background_prompts": ["at dusk", f"in {long}"]},
        {"negative_prompt": long},
        {"background_prompts": [long], "background_prompt_template": "{background}"},
        {"prompt_template": [f"a {{token}} in {long}"]},
    ):
        with pytest.raises(UserError, match=TOO_LONG):
            SGDMixPipeline.from_pretrained(str(tiny_base), str(adapter), **settings, **SMALL)
    with pytest.raises(UserError, match=TOO_LONG):
        SGDMixPipeline.from_pretrained(str(tiny_base), class_names=["bird", long], **SMALL)
    with pytest.raises(UserError, match=TOO_LONG):
        unmixing(pairs[0][0], prompt=long)


def test_a_saved_pipeline_is_loaded_with_its_settings_and_with_no_other_base(
    pipeline, tiny_base, prudish_base, tmp_path
):
    pipeline.save_pretrained(tmp_path)
    again = SGDMixPipeline.from_pretrained(str(tiny_base), str(tmp_path), strength=0.9)
    assert again.settings.strength == [0.9]
    assert again.settings.background_prompts == pipeline.settings.background_prompts
    with pytest.raises(UserError, match="trained on tiny-base"):
        SGDMixPipeline.from_pretrained(str(prudish_base), str(tmp_path))
    with pytest.raises(UserError, match="tiny-base.* was a local folder: give its path"):
        SGDMixPipeline.from_pretrained(str(tmp_path))


def test_a_base_alone_is_saved_by_its_pin(tiny_base, prudish_base, class_names, tmp_path):
    pipeline = SGDMixPipeline.from_pretrained(
        str(tiny_base),
        class_names=class_names,
        preset="paper",
        **SMALL | {"saliency_method": "consensus"},
    )
    pipeline.save_pretrained(tmp_path)
    again = SGDMixPipeline.from_pretrained(str(tiny_base), str(tmp_path))
    assert (again.settings, again.pins, again.class_names) == (
        pipeline.settings,
        pipeline.pins,
        class_names,
    )
    with pytest.raises(UserError, match="saved with tiny-base"):
        SGDMixPipeline.from_pretrained(str(prudish_base), str(tmp_path))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": 2}, "format 2"),
        ({"settings": {"output_dir": "/"}}, "no such setting: output_dir"),
        ({"settings": {"strength": {"a": 1}}}, "is not a value"),
        ({"settings": {"resolution": 10**9}}, "resolution"),
        ({"settings": {"background_prompts": ["<class_1>"]}}, "learned token"),
        ({"pins": {"classifier": "/etc"}}, "classifier is not an input"),
        ({"class_names": "birds"}, "class_names is not a list"),
    ],
)
def test_what_a_stranger_saved_is_checked(tmp_path, change, said):
    mixing = SGDMixPipeline.from_pretrained(strength=0, resolution=SIZE)
    mixing.save_pretrained(tmp_path)
    path = tmp_path / PIPELINE_FILE
    facts = json.loads(path.read_text())
    assert SGDMixPipeline.from_pretrained(str(tmp_path)).settings == mixing.settings
    path.write_text(json.dumps(facts | change))
    with pytest.raises(UserError, match=said):
        SGDMixPipeline.from_pretrained(str(tmp_path))


def test_what_cannot_be_loaded_again_is_not_saved(pipeline, adapter, tmp_path):
    function = SGDMixPipeline.from_pretrained(
        strength=0, mask_function=lambda image: np.ones((4, 4)), resolution=SIZE
    )
    with pytest.raises(UserError, match="mask_function"):
        function.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="from_pretrained"):
        SGDMixPipeline(pipeline.settings, pipeline.refiner).save_pretrained(tmp_path)
    mixing = SGDMixPipeline.from_pretrained(strength=0, resolution=SIZE)
    with pytest.raises(UserError, match="holds an adapter"):
        mixing.save_pretrained(adapter)


PUSH = """
import sys
from sgdmix_hub.errors import UserError
from sgdmix_hub.pipeline import SGDMixPipeline

base, adapter = sys.argv[1:]
pipeline = SGDMixPipeline.from_pretrained(base, adapter, strength=0.5, min_mask_confidence=0)
try:
    pipeline.push_to_hub("birds/pipeline")
except UserError as error:
    print(error)
print(pipeline.push_to_hub("birds/pipeline", allow_local_inputs=True))
"""
PULL = """
import sys
from pathlib import Path
from huggingface_hub import snapshot_download
from sgdmix_hub.pipeline import SGDMixPipeline

pipeline = SGDMixPipeline.from_pretrained(sys.argv[1], "birds/pipeline", num_inference_steps=9)
print((Path(snapshot_download("birds/pipeline")) / "README.md").read_text())
print(pipeline.settings.strength, pipeline.settings.num_inference_steps, pipeline.pins["adapter"])
"""


@pytest.mark.slow
def test_a_pushed_pipeline_is_loaded_from_the_hub(tiny_base, adapter, hub):
    pushed = run_python(hub, PUSH, tiny_base, adapter)
    assert pushed.returncode == 0, pushed.stderr
    refusal, pin = pushed.stdout.splitlines()[-2:]
    assert "made from local folders (pretrained_model_name_or_path tiny-base)" in refusal
    pulled = run_python(hub, PULL, tiny_base, token=READ_TOKEN)
    assert pulled.returncode == 0, pulled.stderr
    assert pulled.stdout.splitlines()[-1] == f"[0.5] 9 {pin}"
    assert "| strength S | 0.5 |" in pulled.stdout and "| preset | recommended |" in pulled.stdout
