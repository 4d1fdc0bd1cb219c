"""Helpers for tests of published versions: a publishing process and a small source dataset."""

import copy
import json
from dataclasses import dataclass

from forking import Answering
from generations import plain_images, write_dataset
from launching import launch_environment
from loopback_hub import WRITE_TOKEN, hub_environment

EVIL = 'a": {evil}\n---\n# <script>'
NAMES = [EVIL, "tern", "kite"]

# One process for many publications. It shortens sleeps so that tests don't wait out retries.
WORKER = """
import json, sys, time

sleep, waited = time.sleep, []

def sleep_less(seconds):
    waited.append(seconds)
    sleep(seconds / 50)

time.sleep = sleep_less
from sgdmix_hub.errors import UserError
from sgdmix_hub.settings.programs import PublishSettings
from sgdmix_hub.errors import TooManySkipped
from sgdmix_hub.publishing.versions import publish_version

print(json.dumps("ready"), flush=True)
for line in sys.stdin:
    asked = json.loads(line)
    waited.clear()
    try:
        settings = PublishSettings(**asked["settings"])
        settings.validate()
        limits = (settings.max_skipped, asked["token"], asked["timeout"])
        done = {"pin": str(publish_version(settings.folder, settings, *limits))}
    except (UserError, TooManySkipped) as error:
        done = {"error": str(error), "kind": type(error).__name__}
    print(json.dumps(done | {"waited": waited}), flush=True)
"""


@dataclass
class Outcome:
    """Result of a publication: a pin, or an error line for the user."""

    waited: list
    pin: str | None = None
    error: str | None = None
    kind: str | None = None


class Publisher:
    """A process that publishes generations to a loopback Hub, one after another."""

    def __init__(self, hub):
        self.hub = hub
        environment = launch_environment(hub_environment(hub, ""))
        self.process = Answering(["-c", WORKER], environment)
        assert json.loads(self.process.hear()) == "ready"

    def close(self):
        self.process.close()

    def start(self, folder, repo_id, tag="v1.0.0", token=WRITE_TOKEN, timeout=30, **settings):
        """Starts a publication; `end` returns its outcome."""
        settings = {"allow_local_inputs": True} | settings
        asked = {"folder": str(folder), "hub_dataset_id": repo_id, "tag": tag} | settings
        self.process.tell(json.dumps({"settings": asked, "token": token, "timeout": timeout}))

    def end(self) -> Outcome:
        line = self.process.hear()
        said = self.process.log.read_text()
        assert line, said
        assert WRITE_TOKEN not in said + line and "Traceback" not in said, said
        return Outcome(**json.loads(line))

    def publish(self, *args, **kwargs) -> Outcome:
        self.start(*args, **kwargs)
        return self.end()

    def published(self, *args, **kwargs) -> str:
        """Pin of a publication; asserts that it succeeds."""
        outcome = self.publish(*args, **kwargs)
        assert outcome.error is None, outcome.error
        return outcome.pin

    def refused(self, *args, **kwargs) -> str:
        """Error line of a publication; asserts that it fails."""
        outcome = self.publish(*args, **kwargs)
        assert outcome.pin is None and len(outcome.error.splitlines()) == 1, outcome
        return outcome.error


def another(hub, repo_id, name):
    """A copy of the repository `repo_id` under another name."""
    twin = copy.deepcopy(hub.repository("dataset", repo_id))
    twin.repo_id = name
    hub.repositories["dataset", name] = twin
    return twin


def source_dataset(folder, rows=12):
    """Folder dataset of `rows` images in three classes; one class name tries to inject markup."""
    return write_dataset(
        folder, plain_images(rows), [row % len(NAMES) for row in range(rows)], NAMES
    )
