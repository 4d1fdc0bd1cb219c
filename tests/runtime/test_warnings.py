"""The package's warnings: lines of output in a program, Python's logging in a library."""

import logging

import pytest
from forking import run_forked
from launching import launch_environment

from sgdmix_hub.runtime.ranks import WarningLines, show_warnings


@pytest.fixture
def logger():
    logger = logging.getLogger("sgdmix_hub")
    yield logger
    logger.handlers = [one for one in logger.handlers if not isinstance(one, WarningLines)]


def test_a_program_prints_a_warning_as_one_line_of_its_output(logger, capsys):
    show_warnings()
    show_warnings()
    logging.getLogger("sgdmix_hub.data.report").warning("3 images cannot be used: 100%")
    logging.getLogger("sgdmix_hub.data.report").info("not for the user")
    assert capsys.readouterr().out == "warning: 3 images cannot be used: 100%\n"


def test_other_ranks_print_no_warnings(logger, capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    show_warnings()
    logging.getLogger("sgdmix_hub.data.report").warning("3 images cannot be used")
    assert capsys.readouterr().out == ""


LIBRARY = """
import logging
from PIL import Image
from sgdmix_hub.pipeline import SGDMixPipeline

pipeline = SGDMixPipeline.from_pretrained(strength=0, preset="recommended", resolution=32)
grey = Image.new("RGB", (32, 32), "grey")
assert pipeline(grey, grey).images == [None]
logging.getLogger("sgdmix_hub").setLevel(logging.ERROR)
assert pipeline(grey, grey).images == [None]
"""


@pytest.mark.slow
def test_a_user_of_the_library_sees_warnings_on_stderr_and_can_silence_them():
    done = run_forked(["-c", LIBRARY], launch_environment())
    assert done.returncode == 0, done.stderr
    assert done.stdout == "" and done.stderr.count("0.00: the image has no colours") == 1
