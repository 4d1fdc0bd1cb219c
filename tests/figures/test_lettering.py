"""Names in pictures: letters that a font has, escapes for the others, cut to the room there is,
whatever their length.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from sgdmix_hub.evaluation.confusion import draw_confusion
from sgdmix_hub.figures.lettering import drawable, fitted, font_for, shortened, wrapped
from sgdmix_hub.figures.panels import SheetRow, draw_contact_sheet
from sgdmix_hub.models.adapters import JUDGED_ARMS

NAMES = [
    "Möwe",
    "Ångström",
    "łabędź",
    "žluva",
    "Ærø",
    "ß",
    "Синица",
    "γλάρος",
    "naïve façade",
    "Größe 10 µm",
]


def drawn(text, font):
    image = Image.new("L", (40, 40))
    ImageDraw.Draw(image).text((5, 5), text, fill=255, font=font)
    return np.asarray(image)


@pytest.mark.parametrize("name", NAMES)
def test_letters_of_europe_are_drawn_and_none_is_the_empty_box(name):
    text, font = fitted(name, 15, 1000)
    assert text == name
    box = drawn("\U0010ffff", font)
    assert all(
        not np.array_equal(drawn(letter, font), box) and drawn(letter, font).any()
        for letter in name
        if letter != " "
    )
    assert len({drawn(letter, font).tobytes() for letter in set(name)}) == len(set(name))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("蜂鳥", "\\u8702\\u9ce5"),
        ("a\nb", "a\\nb"),
        ("x\ud800", "x\\ud800"),
        ("🐦 bird", "\\U0001f426 bird"),
    ],
)
def test_what_no_font_here_has_is_escaped(name, text):
    assert drawable(name) == text


@pytest.mark.slow
@given(text=st.text(max_size=60), room=st.integers(0, 300))
@settings(max_examples=150)
def test_a_text_fits_its_room_and_is_drawn_whole_where_it_can_be(text, room):
    cut, font = fitted(text, 15, room)
    assert cut.replace("…", "").isprintable()
    assert font.getlength(cut) <= max(room, font.getlength("…"))
    whole = drawable(text)
    assert (
        cut == whole
        if font.getlength(whole) <= room
        else whole.startswith(cut[:-1]) and cut.endswith("…")
    )


@given(text=st.text("abcdefgil mW.,", max_size=40), room=st.integers(0, 200))
@settings(max_examples=100)
def test_as_much_is_kept_as_fits(text, room):
    font = font_for(True, 15)
    fits = [
        text[:length].rstrip() + "…"
        for length in range(len(text))
        if font.getlength(text[:length].rstrip() + "…") <= room
    ]
    expected = text if font.getlength(text) <= room else fits[-1] if fits else "…"
    assert shortened(text, font, room) == expected


@given(
    text=st.text("abcdefgil mW.,", max_size=200), room=st.integers(20, 200), most=st.integers(1, 9)
)
@settings(max_examples=100)
def test_wrapped_lines_fit_and_lose_words_only_at_their_ends(text, room, most):
    drawn, font = wrapped(text, 15, room, most)
    lines = drawn.split("\n")
    assert len(lines) <= most and all(font.getlength(line) <= room for line in lines)
    if "…" not in drawn:
        assert drawn.split() == text.split()
    words = text.split()
    assert lines[0].rstrip("…") == " ".join(words)[: len(lines[0].rstrip("…"))]


def test_a_sheet_with_names_of_any_length_is_drawn_at_once():
    """The text was measured once for each character that was dropped: eleven minutes of them."""
    rows = [
        SheetRow([np.zeros((8, 8, 3), np.uint8)] * 2, name * 10_000)
        for name in ("a", "ä", "蜂", "\n", "🐦")
    ]
    sheets = [
        draw_contact_sheet(rows, titles)
        for titles in (["source", "refined"], ["x" * 10_000, "ä\n" * 3])
    ]
    assert all(sheet.width < 1000 for sheet in sheets)


def test_names_that_were_always_drawn_are_drawn_as_before():
    """Published pictures of ASCII names keep their bytes."""
    assert fitted("Blue Tit", 15, 500)[1] is font_for(True, 15)
    assert font_for(True, 15).getname() != font_for(False, 15).getname()


@pytest.mark.filterwarnings("error")
def test_a_confusion_matrix_has_no_letter_that_its_font_lacks(tmp_path):
    scores = {
        "by_class": [[0, 1, 2], [1, 1, 2]],
        "confused": [[0, 1, 1], [1, 0, 1]],
        "accuracy": 0.5,
    }
    draw_confusion(
        dict.fromkeys(JUDGED_ARMS, scores), ["蜂鳥 $x$", "Möwe 🐦"], tmp_path / "matrix.png"
    )
    assert (tmp_path / "matrix.png").stat().st_size > 1000
