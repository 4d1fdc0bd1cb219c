"""Prompts: the one builder of tokens and prompts, whatever the classes are called."""

from hypothesis import given, settings
from hypothesis import strategies as st

from sgdmix_hub.prompts import prompt_for, token_for


def test_tokens_are_distinct_whatever_the_case():
    """CLIP's tokenizer lower-cases: tokens that differ in case alone would be one."""
    tokens = [token_for(label).lower() for label in range(1000)]
    assert len(set(tokens)) == 1000
    # Nor may one token be found inside another.
    assert not any(first in second for first in tokens[:120] for second in tokens[:120] if first != second)


@given(label=st.integers(0, 10_000), metaclass=st.text(min_size=1, max_size=12))
@settings(max_examples=40)
def test_a_prompt_holds_the_token_and_the_metaclass_as_they_are(label, metaclass):
    prompt = prompt_for(label, metaclass, "a photo of a {token} {metaclass}")
    assert prompt == f"a photo of a <class_{label}> {metaclass}"
