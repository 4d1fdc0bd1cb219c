"""One process that calls the loopback Hub for many tests; its sleeps are 50 times shorter."""

import json

from forking import Answering
from launching import launch_environment
from loopback_hub import hub_environment

WORKER = """
import json, logging, sys, time

sleep, waited, warned = time.sleep, [], []
handler = logging.Handler()
handler.emit = lambda record: warned.append(record.getMessage())
logging.getLogger("sgdmix_hub").addHandler(handler)

def sleep_less(seconds):
    waited.append(seconds)
    sleep(seconds / 50)

time.sleep = sleep_less
from sgdmix_hub.settings.generation import AugmentSettings
from sgdmix_hub.errors import UserError
from sgdmix_hub.settings.fetched import fetch_config
from sgdmix_hub.settings.parsing import parse_settings
from sgdmix_hub.hub.pins import Pin, local_folder, resolve
from sgdmix_hub.publishing.read import load_published

print(json.dumps("ready"), flush=True)
for line in sys.stdin:
    waited.clear()
    done = {"value": None, "error": None}
    warned.clear()
    try:
        done["value"] = eval(json.loads(line))
    except UserError as error:
        done["error"] = str(error)
    done |= {"waited": list(waited), "warned": list(warned)}
    print(json.dumps(done, default=str), flush=True)
"""


class HubProcess:
    """Evaluates expressions of sgdmix_hub in a process that uses a given Hub."""

    def __init__(self, hub, token, **environment):
        environment = launch_environment(hub_environment(hub, token) | environment)
        self.process = Answering(["-c", WORKER], environment)
        assert json.loads(self.process.hear()) == "ready"

    def __call__(self, expression: str) -> dict:
        """Result of the expression: `value` or `error` (a line), `waited` (seconds), `warned`."""
        self.process.tell(json.dumps(expression))
        line = self.process.hear()
        assert line, self.process.log.read_text()
        done = json.loads(line)
        assert done["error"] is None or done["error"].isprintable(), done
        return done

    def close(self) -> None:
        self.process.close()
