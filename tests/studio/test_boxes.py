"""Boxes while rows are redrawn: whatever overtakes what, browser and server agree in the end."""

from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

gr = pytest.importorskip("gradio", reason="gradio is not installed: pip install gradio")

from sgdmix_hub.studio.boxes import GONE, MOST_VISITORS, PAGE_ROWS, Boxes, Visitors  # noqa: E402

PAGES = [[f"row {8 * page + place}" for place in range(8 - 3 * page)] for page in range(2)]
STEPS = st.one_of(
    st.tuples(st.just("click"), st.integers(0, 7)),
    st.tuples(st.just("turn"), st.integers(0, 1)),
    st.just(("redraw", None)),
    st.just(("arrive", None)),
    st.just(("deliver", None)),
)


class Browser:
    """One browser and its server, with what is under way between them in both directions."""

    def __init__(self):
        self.boxes, self.page, self.out = Boxes(), 0, set()
        hidden = {"elem_classes": [GONE], "value": False, "label": ""}
        self.shown = [dict(hidden) for _ in range(PAGE_ROWS)]
        self.asked, self.answers = deque(), deque()
        self.meant = {}  # what the person wants of every row that they have clicked
        self.redraw()

    def click(self, place):
        box = self.shown[place]
        if not box["elem_classes"]:
            box["value"] = not box["value"]
            self.meant[box["label"]] = box["value"]
            self.asked.append((place, box["label"], box["value"]))

    def turn(self, page):
        self.page = page
        self.redraw()

    def redraw(self, _=None):
        wanted = [(label, label in self.out) for label in PAGES[self.page]]
        self.answers.append(self.boxes.updates(wanted))

    def arrive(self, _=None):
        """The server hears of the oldest tick, and draws the page anew."""
        if self.asked:
            place, label, is_ticked = self.asked.popleft()
            assert self.boxes.heard(place, label) == label
            (self.out.add if is_ticked else self.out.discard)(label)
            self.redraw()

    def deliver(self, _=None):
        """The browser shows the oldest answer."""
        if self.answers:
            answer = self.answers.popleft()
            for box, update, name in zip(self.shown, answer[::2], answer[1::2], strict=True):
                box |= {key: value for key, value in update.items() if key != "__type__"}
                assert isinstance(name, dict) or box["elem_classes"] or name == box["label"]


@given(st.lists(STEPS, max_size=40))
def test_no_tick_is_lost_whatever_is_under_way(steps):
    browser = Browser()
    for step, value in steps:
        getattr(browser, step)(value)
    while browser.asked or browser.answers:
        browser.arrive()
        browser.deliver()
    assert browser.out == {label for label, is_ticked in browser.meant.items() if is_ticked}
    seen = [(box["label"], box["value"]) for box in browser.shown if not box["elem_classes"]]
    assert seen == [(label, label in browser.out) for label in PAGES[browser.page]]


@given(st.lists(st.integers(0, 7)), st.lists(st.integers(0, 7)))
def test_a_tick_stays_through_redraws_that_began_before_it(before, places):
    browser = Browser()
    browser.deliver()
    for _ in before:
        browser.redraw()
    for place in places:
        browser.click(place)
        ticks = [box["value"] for box in browser.shown]
        browser.deliver()
        assert [box["value"] for box in browser.shown] == ticks


def test_a_box_whose_browser_does_not_know_its_label_yet_has_the_one_sent_last():
    boxes = Boxes()
    boxes.updates([("row 4", False), ("row 9", False)])
    assert boxes.heard(1, None) == "row 9"
    sent = boxes.updates([("row 4", False), ("row 9", True)])
    assert [part for part in sent if part not in ("", gr.skip())] == [
        gr.update(value=True, label="row 9", elem_classes=[]),
        "row 9",
    ]


def test_the_pages_that_were_used_last_are_remembered():
    visitors = Visitors()
    first = visitors.of(gr.Request(session_hash="first"))
    for number in range(MOST_VISITORS + 1):
        visitors.of(gr.Request(session_hash=str(number)))
        assert visitors.of(gr.Request(session_hash="first")) is first
    assert visitors.of(gr.Request(session_hash="0")).newest == 0
    assert len(visitors._known) == MOST_VISITORS
