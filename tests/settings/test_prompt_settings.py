"""Prompts in settings: what their texts may hold, how lists of texts are given, and what a
stranger's configuration may say with them.
"""

import pytest
import yaml
from untrusted import HONEST, PINNED, refused

from sgdmix_hub.errors import UserError
from sgdmix_hub.models.prompts import num_prompts
from sgdmix_hub.settings.fetched import check_fetched
from sgdmix_hub.settings.fields import MOST_VALUES
from sgdmix_hub.settings.generation import AugmentSettings, fingerprint, published_settings
from sgdmix_hub.settings.method import MethodSettings
from sgdmix_hub.settings.parsing import parse_settings
from sgdmix_hub.settings.presets import apply_preset

PLACES = ["in the snow", "on a beach"]
MINE = {"dataset_name": "a/b", "output_dir": "out", "strength": 0.5}
WITH_ADAPTER = MINE | {"adapter": "a/adapter"}
BASE_ALONE = MINE | {"pretrained_model_name_or_path": "a/base"}
PINS = {"dataset_name": PINNED}


def parsed(tmp_path, text, *words):
    (tmp_path / "mine.yaml").write_text(text)
    return parse_settings(
        AugmentSettings,
        ["--dataset_name=a/b", "--output_dir=out", f"--config={tmp_path / 'mine.yaml'}", *words],
    )


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (WITH_ADAPTER | {"prompt_template": "a {metaclass}"}, "must contain {token} exactly once"),
        (WITH_ADAPTER | {"prompt_template": "{token} {token}"}, "{token} exactly once"),
        (WITH_ADAPTER | {"prompt_template": ["a {token}", "a bird"]}, "{token} exactly once"),
        (
            WITH_ADAPTER | {"prompt_template": "{token} {metaclass} {metaclass}"},
            "{metaclass} at most once",
        ),
        (WITH_ADAPTER | {"prompt_template": "a {token} {class_name}"}, "holds {class_name}"),
        (BASE_ALONE | {"prompt_template": "a {token} {metaclass}"}, "holds {token}"),
        (BASE_ALONE | {"prompt_template": "a bird"}, "{class_name} exactly once"),
        (WITH_ADAPTER | {"prompt_template": "a {token} {0.__class__}"}, "holds {0.__class__}"),
        (WITH_ADAPTER | {"prompt_template": "a {token} {"}, "brace without its pair"),
        (WITH_ADAPTER | {"prompt_template": "a {{token}}"}, "brace without its pair"),
        (WITH_ADAPTER | {"prompt_template": "{token} and <class_3>"}, "names a learned token"),
        (WITH_ADAPTER | {"background_prompts": ["near a <CLASS_3>"]}, "names a learned token"),
        (WITH_ADAPTER | {"background_prompts": ["near a {token}"]}, "takes no field"),
        (WITH_ADAPTER | {"negative_prompt": "<Class_0>"}, "names a learned token"),
        (WITH_ADAPTER | {"negative_prompt": "{metaclass}"}, "takes no field"),
        (WITH_ADAPTER | {"negative_prompt": "blurry", "guidance_scale": 1}, "guidance_scale above"),
        (WITH_ADAPTER | {"background_prompt_template": "{background}"}, "needs background_prompts"),
        (
            WITH_ADAPTER
            | {"background_prompts": PLACES, "background_prompt_template": "a landscape"},
            "{background} exactly once",
        ),
        (
            WITH_ADAPTER | {"preset": "paper", "background_prompt_template": "a landscape"},
            "needs a kept foreground",
        ),
        (
            WITH_ADAPTER | {"foreground_strength": 0.5, "background_prompt_template": "a place"},
            "needs a kept foreground",
        ),
        (WITH_ADAPTER | {"preset": "paper", "kept_erosion": 0.05}, "kept_erosion needs a kept"),
    ],
)
def test_texts_that_make_no_prompt_are_refused_before_any_model_is_loaded(settings, said):
    classifier = {} if settings.get("preset") != "paper" else {"classifier": "a/classifier"}
    assert said in refused(AugmentSettings(**settings | classifier).validate)


def test_prompts_are_numbered_by_templates_and_backgrounds():
    def number(**prompts):
        settings = AugmentSettings(**WITH_ADAPTER | prompts)
        settings.validate()
        return num_prompts(settings)

    templates = ["a photo of a {token} {metaclass}", "a {token}, sharp"]
    assert number() == number(prompt_template=templates[0], background_prompts=PLACES[0]) == 1
    assert number(background_prompts=PLACES) == number(prompt_template=templates) == 2
    assert number(background_prompts=PLACES, prompt_template=templates) == 4


def test_a_list_of_texts_is_one_list_however_it_is_given(tmp_path):
    line = "strength: 0\nbackground_prompts: ['in the snow', \"it's dawn: 5 am\"]"
    wanted = ["in the snow", "it's dawn: 5 am"]
    words = ["--background_prompts", *wanted]
    assert parsed(tmp_path, line).background_prompts == wanted
    assert parsed(tmp_path, "strength: 0", *words).background_prompts == wanted
    assert parsed(tmp_path, line, "--background_prompts=dusk").background_prompts == ["dusk"]
    assert MethodSettings(background_prompts="dusk").background_prompts == ["dusk"]
    assert parsed(tmp_path, "strength: 0\nbackground_prompts: dusk").background_prompts == ["dusk"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("background_prompts: [--push_to_hub, x]", "begin with -"),
        ("background_prompts: [x, '--strength=1']", "begin with -"),
        ("background_prompts: [x, 3]", "list of numbers, or of texts"),
        ("background_prompts: [x, true]", "list of numbers, or of texts"),
        ("background_prompts: [0.5, 0.7]", "one value or a list of texts"),
        ("background_prompts: [[x]]", "list of numbers, or of texts"),
        ("background_prompts: []", "must be one value or a list"),
        ("background_prompts: [x, x]", "'x' twice|x twice"),
        ("strength: ['0.5', '0.7']", "one value or a list of numbers"),
        ("negative_prompt: [a, b]", "must be one value, not a list"),
    ],
)
def test_a_list_in_yaml_holds_what_its_setting_takes(tmp_path, line, said):
    text = line if line.startswith("strength") else f"strength: 0\n{line}"
    with pytest.raises(UserError, match=said):
        parsed(tmp_path, text)


def test_more_texts_than_a_list_holds_are_refused():
    many = [f"place {number}" for number in range(MOST_VALUES + 1)]
    assert "at most" in refused(MethodSettings, background_prompts=many)


def test_published_prompts_are_read_back_and_are_in_the_fingerprint(tmp_path):
    chosen = {
        "prompt_template": ["a {token}", "two {token}"],
        "background_prompts": PLACES,
        "background_prompt_template": "a landscape {background}",
        "negative_prompt": "blurry: yes",
    }
    settings = apply_preset(AugmentSettings(**WITH_ADAPTER | chosen))
    plain = apply_preset(AugmentSettings(**WITH_ADAPTER))
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(published_settings(settings, PINS)))
    again = parse_settings(
        AugmentSettings, [f"--config={path}", "--output_dir=again", "--adapter=a/adapter"]
    )
    assert fingerprint(again, PINS) == fingerprint(settings, PINS)
    assert {name: getattr(again, name) for name in chosen} == chosen
    seen = {fingerprint(plain, PINS)}
    for name, value in chosen.items():
        if name != "background_prompt_template":
            other = apply_preset(AugmentSettings(**WITH_ADAPTER | {name: value}))
            seen.add(fingerprint(other, PINS))
    assert len(seen) == 4
    assert not set(chosen) & set(published_settings(plain, PINS))


@pytest.mark.parametrize("text", ["two\nlines", "\x1b[2J", "x" * 5000])
def test_a_strangers_configuration_may_hold_prompts_of_one_printable_line_each(text):
    honest = HONEST | {"background_prompts": PLACES, "negative_prompt": "blurry"}
    assert check_fetched(honest, (), "config.yaml") == honest
    for name, value in (("background_prompts", [PLACES[0], text]), ("negative_prompt", text)):
        assert name in refused(check_fetched, HONEST | {name: value}, (), "config.yaml")
