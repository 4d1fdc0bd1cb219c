"""The gallery: one page of a version that needs nothing but itself."""

import html.parser

import pytest
from generations import manifest_of, published_rows
from publishing import EVIL

from sgdmix_hub import augment
from sgdmix_hub.errors import UserError
from sgdmix_hub.figures.panels import SheetRow
from sgdmix_hub.generation import gallery as module
from sgdmix_hub.generation.gallery import gallery
from sgdmix_hub.settings.generation import AugmentSettings

HOSTILE = ["<script>alert(1)</script>", '" onerror="alert(1)', "{{ 7 * 7 }}", "</title><img src=x>"]


class Page(html.parser.HTMLParser):
    """Tags, attributes and texts of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.texts = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes

    def handle_data(self, data):
        self.texts.append(data)

    def addresses(self):
        return [value for name, value in self.attributes if name in ("src", "href", "action")]


def row(pixels, caption):
    return SheetRow([pixels] * 7, caption)


@pytest.fixture(scope="module")
def pixels():
    import numpy as np

    return np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)


def test_texts_of_others_are_shown_as_texts(pixels):
    page = Page(gallery(HOSTILE[3], [row(pixels, name) for name in HOSTILE], 4, refines=True))
    assert set(page.tags) <= {
        *("html", "head", "meta", "title", "style", "body", "main", "h1", "p", "ol", "li", "div"),
        *("figure", "img", "figcaption"),
    }
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert set(HOSTILE) <= set(page.texts)
    assert all(address.startswith("data:image/jpeg;base64,") for address in page.addresses())
    assert len(page.addresses()) == 4 * 5


def test_its_size_is_bounded(pixels, monkeypatch):
    monkeypatch.setattr(module, "LARGEST_GALLERY", 60_000)
    page = gallery("birds", (row(pixels, f"row {number}") for number in range(10**4)), 10**4, True)
    assert len(page) < 70_000
    assert "of 10000 rows" in page


@pytest.mark.slow
def test_a_generation_publishes_it_and_its_card_links_it(evil_source, tmp_path):
    settings = {
        "dataset_name": str(evil_source),
        "output_dir": str(tmp_path / "out"),
        "preset": "paper",
        "saliency_method": "spectral-residual",
        "strength": 0.0,
        "resolution": 32,
        "num_workers": 1,
        "gallery": True,
    }
    augment.main(AugmentSettings(**settings))
    repo = tmp_path / "out" / "repo"
    page = Page((repo / "assets" / "gallery.html").read_text(encoding="utf-8"))
    assert page.tags.count("li") == len(published_rows(tmp_path / "out"))
    assert any(" ".join(EVIL.split()) in text for text in page.texts)
    assert "script" not in page.tags
    assert "assets/gallery.html" in manifest_of(tmp_path / "out")["files"]
    assert "(assets/gallery.html)" in (repo / "README.md").read_text()
    augment.main(AugmentSettings(**settings))
    with pytest.raises(UserError, match="another gallery"):
        augment.main(AugmentSettings(**(settings | {"gallery": False})))
