"""What a dry run tells of files, commits and limits: for runs that nobody could make here."""

import pytest

from sgdmix_hub.generation.extent import LARGEST_FILE, Extent, files_text, free_room, limits_of
from sgdmix_hub.publishing.parquet import MOST_FILES


def extent(rows, rows_per_shard=128, row_bytes=50_000, to_make=None, room=10**15):
    shards = [min(rows_per_shard, rows - start) for start in range(0, rows, rows_per_shard)]
    return Extent(shards, row_bytes, rows if to_make is None else to_make, room)


@pytest.mark.parametrize(
    "rows, told",
    [
        (30_000, "4 shards of the dataset, published in one commit; 470 in state/ meanwhile"),
        (1_000, "8 shards of the dataset, published in one commit; 16 in state/ meanwhile"),
        (
            6_500_000,
            "652 shards of the dataset, published in 5 commits, of which the last shows the "
            "version; 101,564 in state/ meanwhile",
        ),
    ],
)
def test_files_and_commits(rows, told):
    assert files_text(extent(rows)) == told


def test_a_run_that_fits_meets_no_limit():
    assert limits_of(extent(30_000)) == []
    assert limits_of(extent(30_000, room=None)) == []


def test_a_million_images_of_half_a_megabyte_stay_below_every_limit_of_the_hub():
    whole = extent(6_500_000, rows_per_shard=1024, row_bytes=400_000)
    assert len(whole.file_bytes) <= MOST_FILES and max(whole.file_bytes) < LARGEST_FILE
    assert sum(whole.file_bytes) == 6_500_000 * 400_000
    assert limits_of(whole) == []


def test_every_limit_is_told_with_what_to_do():
    assert limits_of(extent(2_500_000)) == []
    (shards,) = limits_of(extent(2_600_000))
    assert "20,313 shards" in shards and "--rows_per_shard 1024" in shards
    (large,) = limits_of(extent(10**6, rows_per_shard=10**6, row_bytes=10**6))
    assert "1,000 GB" in large and "--rows_per_shard 50000" in large
    (room,) = limits_of(extent(1_000, row_bytes=10**6, room=9 * 10**8))
    assert "0.9 GB of room" in room and "needs 2.0" in room, "shards, and files of several"


def test_files_that_hold_one_shard_need_no_second_copy():
    small = extent(1_000, row_bytes=10_000)
    assert small.needed_room == 1_000 * 10_000
    assert extent(1_000, row_bytes=10_000, to_make=0).needed_room == 0


def test_the_room_is_that_of_the_disk_that_the_folder_will_be_on(tmp_path):
    assert abs(free_room(tmp_path / "a" / "b") - free_room(tmp_path)) < 10**9
