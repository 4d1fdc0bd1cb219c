"""Prompts: the one builder of tokens and prompts, whatever the classes are called, through a real
tokenizer and stock diffusers.
"""

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import CLIPTokenizer

from sgdmix_hub.errors import UserError
from sgdmix_hub.files import write_json
from sgdmix_hub.hub.pins import resolve
from sgdmix_hub.models.adapters import FACTS_FILE, LORA_FILE, TOKENS_FILE, Adapter, read_adapter
from sgdmix_hub.models.bases.stable_diffusion import StableDiffusion
from sgdmix_hub.models.prompts import (
    Prompts,
    add_tokens,
    bare_prompt,
    prompt_for,
    prompt_ids,
    token_for,
    tokens_of,
)
from sgdmix_hub.seeds import prompt_number, row_seed
from sgdmix_hub.settings.method import MethodSettings
from sgdmix_hub.settings.presets import apply_preset

CLIP = StableDiffusion.encoders[0]
TEMPLATE = "a photo of a {token} {metaclass}"
ODD = [
    "a/b",
    "../..",
    'say "hi"',
    "it's",
    "[v]",
    "<class_1>",
    "{token}",
    "{metaclass}",
    "蜂鳥",
    "Ångström",
    "🐦",
    "\\n",
    "a\nb",
    "  ",
    "",
    "0",
    "007",
]


@pytest.fixture(scope="module")
def base(tiny_base):
    return StableDiffusionPipeline.from_pretrained(
        tiny_base, safety_checker=None, requires_safety_checker=False
    )


@pytest.fixture
def pipeline(base, tiny_base):
    """The tiny base with a tokenizer that has its own words alone."""
    return StableDiffusionPipeline(
        **base.components | {"tokenizer": CLIPTokenizer.from_pretrained(tiny_base / "tokenizer")},
        requires_safety_checker=False,
    )


def words(pipeline, ids) -> list[str]:
    """What a row of ids is made of, without the special tokens around it."""
    return [
        word for word in pipeline.tokenizer.convert_ids_to_tokens(ids) if not word.startswith("<|")
    ]


def test_tokens_are_distinct_whatever_the_case():
    """CLIP's tokenizer lower-cases: tokens that differ in case alone would be one."""
    tokens = [token_for(label).lower() for label in range(1000)]
    assert len(set(tokens)) == 1000
    # Nor may one token be found inside another.
    assert not any(
        first in second for first in tokens[:120] for second in tokens[:120] if first != second
    )


@given(label=st.integers(0, 10_000), metaclass=st.text(min_size=1, max_size=12))
@settings(max_examples=40)
def test_a_prompt_holds_the_token_and_the_metaclass_as_they_are(label, metaclass):
    prompt = prompt_for(label, metaclass, TEMPLATE)
    assert prompt == f"a photo of a <class_{label}> {metaclass}"


def test_a_thousand_odd_names_become_tokens_and_names_again(pipeline, tmp_path):
    """Through adapter.json and the tokenizer, in any case: nothing of a name reaches the text
    encoder.
    """
    plain = [f"Bird {number}" for number in range(500 - len(ODD))]
    names = (
        ODD
        + plain
        + [name.upper() for name in plain]
        + [f"{name}/{number}" for number, name in enumerate(ODD * 2)]
    )
    names = names[:1000]
    assert len(names) == len(set(names)) == 1000 > len({name.lower() for name in names})
    facts = {
        "format": 1,
        "class_names": names,
        "tokens": [token_for(label) for label in range(1000)],
    }
    pin = f"org/birds@{'0' * 40}"
    facts |= {
        "base": pin,
        "subset": {"dataset": pin, "dataset_config_name": None, "dataset_split": "train"},
    }
    write_json(tmp_path / FACTS_FILE, facts | {"metaclass": "bird", "prompt_template": TEMPLATE})
    for name in (LORA_FILE, TOKENS_FILE):
        (tmp_path / name).touch()
    adapter = read_adapter(resolve(str(tmp_path)))
    assert adapter.class_names == names
    add_tokens(pipeline.tokenizer, 1000, 1)
    name_of = dict(zip(adapter.facts["tokens"], adapter.class_names, strict=True))
    for change in (str, str.lower, str.upper):
        prompts = [change(adapter.prompt(label)) for label in range(1000)]
        found = [
            [name_of[word] for word in words(pipeline, ids) if word in name_of]
            for ids in pipeline.tokenizer(prompts).input_ids
        ]
        assert found == [[name] for name in names]


@pytest.mark.parametrize("num_vectors", [1, 2, 5])
def test_several_vectors_stand_in_the_prompt_in_order(num_vectors, pipeline, tiny_base):
    """The ids are those that stock diffusers makes of the short prompt when it has loaded the
    embeddings.
    """
    old = len(pipeline.tokenizer)
    rows = torch.randn(
        12,
        num_vectors,
        pipeline.text_encoder.config.hidden_size,
        generator=torch.Generator().manual_seed(0),
    )
    add_tokens(pipeline.tokenizer, 12, num_vectors)
    ids = prompt_ids(CLIP, pipeline.tokenizer, 12, num_vectors, "bird", TEMPLATE)
    assert ids.shape == (13, pipeline.tokenizer.model_max_length) and ids.dtype == torch.int64
    for label, row in enumerate(ids[:12]):
        assert words(pipeline, row)[-num_vectors - 1 : -1] == tokens_of(label, num_vectors)
        learned = [number for number in row.tolist() if number >= old]
        # Rows of the embedding, class by class.
        first = old + label * num_vectors
        assert learned == list(range(first, first + num_vectors))
    assert not (ids[12] >= old).any()

    stock = StableDiffusionPipeline.from_pretrained(tiny_base, safety_checker=None)
    stock.load_textual_inversion(
        [
            {token_for(label): rows[label] if num_vectors > 1 else rows[label, 0]}
            for label in range(12)
        ]
    )
    for label in (0, 1, 11):
        prompt = stock.maybe_convert_prompt(prompt_for(label, "bird", TEMPLATE), stock.tokenizer)
        made = stock.tokenizer(
            prompt,
            padding="max_length",
            max_length=stock.tokenizer.model_max_length,
            return_tensors="pt",
        ).input_ids[0]
        assert words(stock, made) == words(pipeline, ids[label])
        kept = stock.text_encoder.get_input_embeddings().weight[made[made >= old]]
        assert torch.equal(kept, rows[label])


def test_the_prompt_without_a_class_is_the_bases_own(pipeline):
    add_tokens(pipeline.tokenizer, 2, 1)
    ids = prompt_ids(CLIP, pipeline.tokenizer, 2, 1, "red bird", TEMPLATE)
    written = pipeline.tokenizer(
        "a photo of a red bird", padding="max_length", max_length=ids.shape[1], return_tensors="pt"
    ).input_ids
    assert torch.equal(ids[2:], written)
    assert words(pipeline, ids[0])[-3:] == ["<class_0>", "red</w>", "bird</w>"]


@given(
    metaclass=st.sampled_from(["bird", "sports car", "house  sparrow"]),
    template=st.permutations(["{token}", "{metaclass}", "a photo of"]),
)
def test_the_prompt_without_a_class_has_no_gap(metaclass, template):
    prompt = bare_prompt(metaclass, " ".join(template))
    assert prompt == " ".join(prompt.split()) and "{" not in prompt
    assert sorted(prompt.split()) == sorted(["a", "photo", "of", *metaclass.split()])


def test_a_prompt_that_is_too_long_is_refused_with_the_limit(pipeline):
    """The text encoder would cut it off, and perhaps the token with it."""
    add_tokens(pipeline.tokenizer, 3, 30)
    limit = pipeline.tokenizer.model_max_length
    with pytest.raises(
        UserError, match=rf"takes \d+ tokens, the text encoder reads {limit}: .*num_vectors"
    ):
        prompt_ids(CLIP, pipeline.tokenizer, 3, 30, "bird " * 6, TEMPLATE)
    assert prompt_ids(CLIP, pipeline.tokenizer, 3, 30, "bird", TEMPLATE).shape == (4, limit)


def test_the_longest_prompt_fits_to_the_last_token(pipeline):
    """One token more is refused."""
    limit = pipeline.tokenizer.model_max_length
    rest = len(pipeline.tokenizer("a photo of a bird").input_ids)
    add_tokens(pipeline.tokenizer, 1, limit - rest)
    ids = prompt_ids(CLIP, pipeline.tokenizer, 1, limit - rest, "bird", TEMPLATE)
    assert len(words(pipeline, ids[0])) == limit - 2
    with pytest.raises(UserError, match="shorten prompt_template"):
        prompt_ids(CLIP, pipeline.tokenizer, 1, limit - rest, "bird bird", TEMPLATE)


@pytest.mark.parametrize("taken", ["<class_0>", "<CLASS_0>", "<Class_11>", "<class_3>_1"])
def test_a_base_that_has_one_of_the_tokens_is_refused_in_any_case(taken, pipeline):
    pipeline.tokenizer.add_tokens([taken])
    before = len(pipeline.tokenizer)
    with pytest.raises(UserError, match=f"already has {taken.lower()}: .*original base"):
        add_tokens(pipeline.tokenizer, 12, 2)
    assert len(pipeline.tokenizer) == before


@pytest.mark.parametrize(
    "template",
    [
        "photo of {token}{metaclass}",
        "({token}), a {metaclass}",
        "x{token}y {metaclass}",
        "{metaclass}:{token}.",
    ],
)
def test_tokens_are_found_where_they_touch_other_letters(template, pipeline):
    add_tokens(pipeline.tokenizer, 11, 1)
    ids = prompt_ids(CLIP, pipeline.tokenizer, 11, 1, "bird", template)
    for label in range(11):
        assert [word for word in words(pipeline, ids[label]) if word.startswith("<class_")] == [
            token_for(label)
        ]


@pytest.mark.parametrize("template", ["{token}_1 {metaclass}", "a {token}_1{metaclass}"])
def test_a_template_in_which_a_token_becomes_another_is_refused(template, pipeline):
    """With several vectors, `<class_0>_1` is the second of them."""
    add_tokens(pipeline.tokenizer, 2, 2)
    with pytest.raises(UserError, match="lost <class_0> in .*put spaces around"):
        prompt_ids(CLIP, pipeline.tokenizer, 2, 2, "bird", template)


@pytest.mark.parametrize("num_vectors", [1, 3])
@pytest.mark.parametrize(
    "template", [TEMPLATE, "{metaclass}, {token}", "the {token} of {metaclass} at dawn"]
)
def test_the_ids_of_fifty_classes_are_those_of_diffusers_own_expansion(
    num_vectors, template, pipeline
):
    add_tokens(pipeline.tokenizer, 50, num_vectors)
    prompts = [prompt_for(label, "red bird", template) for label in range(50)] + [
        bare_prompt("red bird", template)
    ]
    expanded = pipeline.maybe_convert_prompt(prompts, pipeline.tokenizer)
    length = pipeline.tokenizer.model_max_length
    stock = pipeline.tokenizer(
        expanded, padding="max_length", max_length=length, return_tensors="pt"
    ).input_ids
    assert torch.equal(
        prompt_ids(CLIP, pipeline.tokenizer, 50, num_vectors, "red bird", template), stock
    )


@pytest.mark.slow
def test_the_ids_of_thousands_of_classes_take_seconds(pipeline):
    """Asking every token of every prompt whether it is an added one took a minute at 2,000 classes,
    and hours at these.
    """
    add_tokens(pipeline.tokenizer, 10_000, 2)
    assert prompt_ids(CLIP, pipeline.tokenizer, 10_000, 2, "bird", TEMPLATE).shape[0] == 10_001


# ---- prompts of rows


def prompts_of(adapter=None, class_names=None, **settings):
    defaults = {"strength": 0.5, "preset": "recommended"}
    return Prompts(apply_preset(MethodSettings(**defaults | settings)), adapter, class_names)


LEARNED = Adapter("unused", {"metaclass": "bird", "prompt_template": TEMPLATE})


@given(
    templates=st.lists(st.sampled_from([f"{word} {{token}}" for word in "abcd"]), unique=True),
    backgrounds=st.lists(st.sampled_from(["in the snow", "at dusk", "by the sea"]), unique=True),
    label=st.integers(0, 500),
)
def test_every_template_goes_with_every_background(templates, backgrounds, label):
    prompts = prompts_of(
        LEARNED, prompt_template=templates or None, background_prompts=backgrounds or None
    )
    texts = [prompts.published(label, number) for number in range(len(prompts))]
    said = [template.replace("{token}", f"<class_{label}>") for template in templates]
    said = said or [f"a photo of a <class_{label}> bird"]
    assert texts == [
        f"{text} {background}" if background else text
        for text in said
        for background in backgrounds or [""]
    ]


def test_the_published_prompt_is_that_of_the_last_step():
    given = {
        "background_prompts": ["in the snow", "at dusk"],
        "background_prompt_template": "a landscape {background}",
    }
    kept, released = (
        prompts_of(LEARNED, foreground_strength=strength, **given) for strength in (0.0, 0.25)
    )
    assert kept.published(3, 1) == "a landscape at dusk" == released.of(3, 1).told(True)
    assert released.published(3, 1) == "a photo of a <class_3> bird at dusk"
    assert kept.of(3, 1) == released.of(3, 1)


def test_a_class_name_with_braces_is_no_field():
    prompts = prompts_of(
        None,
        ["{background} {class_name}"],
        background_prompts=["at dusk"],
    )
    assert prompts.published(0, 0) == "a photo of a {background} {class name} at dusk"


def test_a_rows_prompt_is_drawn_from_its_seed_alone_and_all_are_as_frequent():
    seeds = [row_seed(0, source, variant) for source in range(500) for variant in range(2)]
    drawn = [prompt_number(seed, 5) for seed in seeds]
    assert drawn == [prompt_number(seed, 5) for seed in seeds]
    assert {prompt_number(seed, 1) for seed in seeds[:20]} == {0}
    counts = np.bincount(drawn, minlength=5)
    assert ((counts - 200) ** 2 / 200).sum() < 18.5  # chi-square, 4 degrees, p = .001
