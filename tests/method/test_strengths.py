"""Generations at several strengths: a source's variants take them in turn, and a row is what it
would be at its own alone.
"""

import pytest
import yaml
from generations import ROWS, SCRIPT, arguments, digests, published_rows, run_script
from launching import launch


@pytest.fixture(scope="module")
def strengths(generation_settings, tmp_path_factory):
    """The same rows at three strengths, one of them mixing alone."""
    output = tmp_path_factory.mktemp("strengths") / "run"
    args = [
        *arguments(generation_settings | {"output_dir": output, "num_variants": 3, "strength": 0}),
        "--strength",
        "0.9",
        "0",
        "0.5",
    ]
    ended = run_script(args, output.parent / "logs")
    assert ended.returncode == 0, ended.stderr
    return output


@pytest.mark.slow
def test_a_sources_variants_take_the_strengths_in_turn(strengths):
    rows = published_rows(strengths)
    assert [(row["source_index"], row["variant"]) for row in rows] == [
        (s, v) for s in range(ROWS) for v in range(3)
    ]
    for first in range(0, len(rows), 3):
        assert sorted(row["strength"] for row in rows[first : first + 3]) == [0.0, 0.5, 0.9]
    assert (
        len(
            {
                tuple(row["strength"] for row in rows[first : first + 3])
                for first in range(0, len(rows), 3)
            }
        )
        > 3
    )
    for row in rows:
        assert row["effective_strength"] == {0.0: 0.0, 0.5: 0.5, 0.9: 0.75}[row["strength"]]
        assert row["foreground_strength"] == row["strength"]
        assert (row["prompt"] == "") == (row["strength"] == 0)
    config = yaml.safe_load((strengths / "repo" / "sgdmix" / "default" / "config.yaml").read_text())
    assert config["strength"] == [0.0, 0.5, 0.9]
    card = (strengths / "repo" / "README.md").read_text()
    line = (
        "| strength S | 0, 0.5, 0.9, in turn for the variants of a source "
        "(effective 0, 0.5, 0.75: 4 steps"
    )
    assert line in card


@pytest.mark.slow
def test_a_row_is_the_one_of_a_run_at_its_strength_alone(generation_settings, strengths, tmp_path):
    """Targets, seeds and bits of a row do not depend on what other strengths there are."""
    ended = run_script(
        arguments(
            generation_settings
            | {"output_dir": tmp_path / "run", "num_variants": 3, "strength": 0.5}
        ),
        tmp_path / "logs",
    )
    assert ended.returncode == 0, ended.stderr
    alone = published_rows(tmp_path / "run")
    together = published_rows(strengths)
    chosen = [number for number, row in enumerate(together) if row["strength"] == 0.5]
    assert len(chosen) == ROWS and all(together[number] == alone[number] for number in chosen)


@pytest.mark.slow
@pytest.mark.soak
def test_several_strengths_give_the_same_bytes_in_two_processes(
    generation_settings, strengths, tmp_path
):
    args = [
        *arguments(
            generation_settings | {"output_dir": tmp_path / "run", "num_variants": 3, "strength": 0}
        ),
        "--strength",
        "0",
        "0.5",
        "0.9",
    ]
    done = launch([SCRIPT, *args], 2)
    assert done.returncode == 0, done.stderr
    assert digests(tmp_path / "run" / "repo") == digests(strengths / "repo")
