"""Settings of publishing a dataset."""

from __future__ import annotations

import re
from dataclasses import dataclass

from sgdmix_hub.errors import UserError

from .fields import LONGEST_NAME, Checked, setting


@dataclass(kw_only=True)
class HubSettings(Checked):
    """Where a dataset is published, and as which version."""

    # There is no setting for the token: `accelerate launch` prints the command line of a program
    # that fails.

    hub_dataset_id: str | None = setting(
        None,
        "dataset repository to publish to, as org/name",
        changes="nothing",
        at_most=LONGEST_NAME,
    )
    tag: str | None = setting(
        None,
        "version to publish, such as v1.0.0: a git tag, which is never moved",
        changes="nothing",
        at_most=LONGEST_NAME,
    )
    hub_private_repo: bool = setting(False, "create the repository as private", changes="nothing")
    hub_branch: str = setting(
        "main", "branch to commit the version to", changes="nothing", at_most=LONGEST_NAME
    )
    allow_local_inputs: bool = setting(
        False,
        "publish even if an input is a local folder, so that nobody else can reproduce the dataset",
        changes="nothing",
    )

    def validate_hub(self) -> None:
        """Raises `UserError` on a repository, tag or branch that cannot be published to."""
        if self.hub_dataset_id is None or self.tag is None:
            raise UserError("publishing needs --hub_dataset_id org/name and a --tag such as v1.0.0")
        for name, value in (("tag", self.tag), ("hub_branch", self.hub_branch)):
            if (
                not re.fullmatch(r"[A-Za-z0-9][\w.-]*", value, re.ASCII)
                or ".." in value
                or value.endswith((".", ".lock"))
            ):
                raise UserError(f"{name} {value!r}: use letters, digits, '.', '-' and '_'")
        if self.tag in ("main", "HEAD", self.hub_branch) or re.fullmatch(r"[0-9a-f]{40}", self.tag):
            raise UserError(
                f"tag {self.tag!r} is the name of a branch or commit: give a version such as v1.0.0"
            )
