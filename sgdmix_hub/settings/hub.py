"""Where a dataset is published, and as which version."""

from __future__ import annotations

import re
from dataclasses import dataclass

from sgdmix_hub.errors import UserError

from .fields import LONGEST_NAME, Checked, setting


@dataclass(kw_only=True)
class HubSettings(Checked):
    """Where a dataset is published, and as which version."""

    # There is no setting for the token: `accelerate launch` prints the whole command line of a
    # program that fails.

    hub_dataset_id: str | None = setting(
        None, "dataset repository that is published to, as org/name", at_most=LONGEST_NAME
    )
    tag: str | None = setting(
        None,
        "version that is published, for example v1.0.0: a tag, which is never moved",
        at_most=LONGEST_NAME,
    )
    hub_private_repo: bool = setting(False, "make the repository private when it is created")
    hub_branch: str = setting(
        "main", "branch that the version is committed to", at_most=LONGEST_NAME
    )
    allow_local_inputs: bool = setting(
        False, "publish what was made from local folders too, though nobody else can make it again"
    )

    def validate_hub(self) -> None:
        """Raises `UserError` on what nothing can be published as."""
        if self.hub_dataset_id is None or self.tag is None:
            raise UserError(
                "publishing needs --hub_dataset_id org/name and --tag, a version like v1.0.0"
            )
        for name in ("tag", "hub_branch"):
            value = getattr(self, name)
            if (
                not re.fullmatch(r"[A-Za-z0-9][\w.-]*", value, re.ASCII)
                or ".." in value
                or value.endswith((".", ".lock"))
            ):
                raise UserError(f"{name} {value!r}: use letters, digits, '.', '-' and '_'")
        if self.tag in ("main", "HEAD", self.hub_branch) or re.fullmatch(r"[0-9a-f]{40}", self.tag):
            raise UserError(f"tag {self.tag!r} is another thing's name: give a version like v1.0.0")
