"""An evaluation that was torn is told, not taken for another one."""

import pytest

from sgdmix_hub.errors import UserError
from sgdmix_hub.evaluate_dataset import is_complete
from sgdmix_hub.evaluation.facts import FILE, Request
from sgdmix_hub.output_folder import OutputFolder
from sgdmix_hub.publishing.layout import RepoLayout
from sgdmix_hub.storage.stores import HERE


def test_a_torn_evaluation_is_named(tmp_path):
    (tmp_path / "repo").mkdir()
    (tmp_path / FILE).write_text('{"synthetic": ')
    request = Request("a@b", "default", "c@d", "", None, None)
    with pytest.raises(UserError, match=rf"{FILE} is torn or was changed"):
        is_complete(OutputFolder(tmp_path), request, RepoLayout("default"), HERE)
