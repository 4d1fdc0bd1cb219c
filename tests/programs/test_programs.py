"""The programs: each runs by its script and by its module, and its --help names every setting."""

import ast
import dataclasses
import json
import sys

import pytest
from forking import Ended, run_forked
from generations import one_line, start
from launching import ROOT, launch_environment

from sgdmix_hub.settings.adapter_training import AdapterSettings
from sgdmix_hub.settings.evaluation import EvaluationSettings
from sgdmix_hub.settings.generation import AugmentSettings
from sgdmix_hub.settings.parsing import parse_settings
from sgdmix_hub.settings.programs import PreviewSettings, PublishSettings, RunSettings
from sgdmix_hub.settings.studio import StudioSettings
from sgdmix_hub.settings.training import ClassifierSettings

PROGRAMS = {
    "augment": AugmentSettings,
    "evaluate_dataset": EvaluationSettings,
    "open_studio": StudioSettings,
    "preview": PreviewSettings,
    "publish_dataset": PublishSettings,
    "run": RunSettings,
    "train_adapter": AdapterSettings,
    "train_classifier": ClassifierSettings,
}


def last_call(path):
    """What a module does when it is run: the call behind its guard."""
    guard = ast.parse(path.read_text()).body[-1]
    assert isinstance(guard, ast.If) and ast.unparse(guard.test) == "__name__ == '__main__'", path
    return ast.unparse(guard.body[-1])


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_runs_by_its_module_as_by_its_script(program):
    script = {"augment": "augment_dataset"}.get(program, program)
    expected = f"launch(main, {PROGRAMS[program].__name__})"
    assert (
        last_call(ROOT / "sgdmix_hub" / f"{program}.py")
        == last_call(ROOT / "scripts" / f"{script}.py")
        == expected
    )


@pytest.mark.parametrize("program", PROGRAMS)
def test_help_names_every_setting(program, capsys):
    with pytest.raises(SystemExit) as ended:
        parse_settings(PROGRAMS[program], ["--help"])
    printed = capsys.readouterr().out
    assert not ended.value.code
    for field in dataclasses.fields(PROGRAMS[program]):
        assert f"--{field.name}" in printed, field.name
    assert "default: None" not in printed and "--output-dir" not in printed


@pytest.mark.slow
def test_a_module_answers_a_mistake_with_a_line_and_exit_code_2():
    words = ["--dataset_name", "absent", "--output_dir", "out", "--num_images=1e23"]
    ended = run_forked(["-m", "sgdmix_hub.preview", *words], launch_environment())
    assert ended.returncode == 2 and "num_images" in ended.stderr.splitlines()[-1]


# Runs programs in forks of a process that has imported, of what they need, the two largest parts
# alone; prints their exit codes.
FORKS = """
import json, os, runpy, sys
import torch._dynamo, datasets

sys.path.insert(0, "scripts")
for words, log in json.loads(sys.argv[1]):
    process = os.fork()
    if process == 0:
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT), 2)
        sys.argv = words
        runpy.run_path(words[0], run_name="__main__")
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]))
"""


@pytest.mark.slow
def test_programs_import_all_that_they_need(tmp_path):
    """Whatever the fork server of these tests has loaded already: a mistake ends in a line."""
    output = f"--output_dir={tmp_path / 'out'}"
    programs = {
        "run": (["--recipe=cub", "--dataset_name=a/b", "--metaclass=bird"], "no recipe 'cub'"),
        "evaluate_dataset": (["--synthetic=absent", "--judge=absent"], "absent: no such folder"),
    }
    told = [
        ([f"scripts/{name}.py", *words, output], str(tmp_path / name))
        for name, (words, _) in programs.items()
    ]
    started = start([sys.executable, "-c", FORKS, json.dumps(told)])
    codes, stderr = started.communicate()
    assert started.returncode == 0 and len(codes.split()) == len(programs), stderr
    for code, (name, (_, said)) in zip(codes.split(), programs.items(), strict=True):
        one_line(Ended(int(code), "", (tmp_path / name).read_text()), said)


@pytest.mark.slow
def test_a_script_that_is_started_and_not_forked_ends_in_a_line():
    words = ["--folder=absent", "--hub_dataset_id=a/b", "--tag=v1.0.0"]
    started = start([sys.executable, "scripts/publish_dataset.py", *words])
    stdout, stderr = started.communicate()
    one_line(Ended(started.returncode, stdout, stderr), "no finished generation")
