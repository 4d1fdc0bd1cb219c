"""What takes long, in a real browser: a run that is still going on, and refinement on demand."""

import pytest
from browsers import Visit, needed, page_of, serving
from forking import Started
from generations import arguments, published_rows, tiny_run, wait_for_records
from halting import Halting
from launching import launch_environment

from sgdmix_hub.evaluation.drop_list import read_drop_list

needed()

pytestmark = pytest.mark.slow
ROWS = 80
ROWS_PER_SHARD, HALTED_AT = 4, 3
PROGRESS = """
() => {
    window.seen = []
    const look = () => {
        const bar = document.querySelector('.sgdmix-status progress')
        const line = document.querySelector('.sgdmix-status:has(progress)')?.innerText.trim()
        if (bar && line !== window.seen.at(-1)?.[0]) window.seen.push([line, bar.value, bar.max])
    }
    new MutationObserver(look).observe(document.body, {subtree: true, childList: true})
}
"""


@pytest.fixture
def going(tmp_path):
    """The output folder of a run that halts after its first shards, its process, and what halts
    it.
    """
    output = tmp_path / "out"
    settings = tiny_run(tmp_path / "birds", ROWS_PER_SHARD)
    settings |= {"num_variants": ROWS // 8, "output_dir": output, "max_skipped": 1}
    halting = Halting(tmp_path, HALTED_AT)
    run = Started([halting.script, *arguments(settings)], launch_environment())
    wait_for_records(run, output, HALTED_AT)
    yield output, run, halting
    if run.poll() is None:
        run.kill()


def test_rows_of_a_run_are_seen_while_it_makes_more(chromium, going, tmp_path):
    output, run, halting = going
    page = page_of(
        published=[str(output)],
        dataset_name=tmp_path / "birds",
        picture_size=64,
        save_to=tmp_path / "drop.csv",
    )
    with serving(page) as address, Visit(chromium, address) as visit:
        visit.page.get_by_text(f"The run makes {ROWS} rows").wait_for()
        at_first = int(visit.status().partition(" ")[0])
        assert 0 < at_first <= ROWS_PER_SHARD * HALTED_AT
        for caption in ("source", "target", "mixed"):
            assert len(visit.pictures(caption)) == 8
        visit.until(lambda: len(visit.boxes()) == 8)
        visit.page.get_by_label("Mark source").first.check()
        visit.page.get_by_text("Rows marked as bad: 1").wait_for()
        assert visit.hindrances() == []
        halting.go_on()
        look = visit.page.get_by_role("button", name="Look for new rows")
        look.click()  # finds old rows or new ones; the next click counts also if it comes meanwhile
        wait_for_records(run, output, HALTED_AT + 2)
        look.click()
        visit.until(lambda: int(visit.status().partition(" ")[0]) > at_first)
        visit.until(lambda: visit.boxes()[0][1])  # still marked
        ended = run.communicate()
        assert run.returncode == 0, ended
        look.click()
        visit.until(lambda: "The run makes" not in visit.status())
        finished = published_rows(output)
        visit.page.get_by_text(f"{len(finished)} of {len(finished)} rows; page 1").wait_for()
        marked = {(row["source_index"], row["variant"]) for row in finished[:1]}
        assert read_drop_list(tmp_path / "drop.csv") == marked
        assert (visit.elsewhere(), visit.dialogs, visit.errors) == ([], [], [])


def test_images_are_refined_on_demand_while_a_bar_grows(
    chromium, birds, tiny_base, spectral, tmp_path
):
    text = spectral.read_text().replace("strength: 0", "strength: 0.5")
    spectral.write_text(f"{text}num_inference_steps: 4\n")
    page = page_of(
        dataset_name=birds,
        pretrained_model_name_or_path=tiny_base,
        start=spectral,
        picture_size=64,
        save_to=tmp_path / "generate.yaml",
    )
    with serving(page) as address, Visit(chromium, address) as visit:
        visit.page.get_by_text("images are left out").wait_for()
        assert visit.pictures("refined") == []
        visit.page.evaluate(PROGRESS)
        refine = visit.page.get_by_role("button", name="Refine the images on this page")
        refine.press("Enter")
        visit.until(lambda: visit.page.locator("figcaption", has_text="refined").count() == 8)
        visit.until(lambda: "left out" in visit.status())
        seen = [one for one in visit.page.evaluate("window.seen") if "Refining" in one[0]]
        assert [value for _, value, _ in seen] == sorted(value for _, value, _ in seen)
        assert seen[0][1:] == [0, 8] and seen[-1][1:] == [8, 8], seen
        first = visit.pictures("refined")
        assert 0 < len(first) == len(set(first))
        assert visit.page.get_by_text("prompt: a photo of a").count() == len(first)
        visit.page.get_by_role("button", name="Refinement").click()
        visit.page.locator("#setting-strength").get_by_role("textbox").fill("0.75")
        visit.until(lambda: visit.pictures("refined") == [])  # they were of another S
        visit.until(lambda: "left out" in visit.status())
        refine.click()
        visit.until(lambda: len(visit.pictures("refined")) == len(first))
        assert visit.pictures("refined") != first
        assert (visit.elsewhere(), visit.dialogs, visit.errors) == ([], [], [])
