"""What a page answers to: the person who opened it, and no website."""

from pathlib import Path

import pytest
from forking import ROOT

gr = pytest.importorskip("gradio", reason="gradio is not installed: pip install gradio")

from fastapi.testclient import TestClient  # noqa: E402
from gradio.routes import App  # noqa: E402

from sgdmix_hub.studio.serving import app_settings  # noqa: E402

LOCAL, EVERYWHERE = "127.0.0.1", "0.0.0.0"
JOIN = "/gradio_api/queue/join"


@pytest.fixture(scope="module")
def page():
    with gr.Blocks(analytics_enabled=False) as page:
        gr.Button("Write").click(lambda: None, api_visibility="private")
    return page.queue(api_open=False)


@pytest.fixture
def answer(page):
    """The answer of a page that listens on `bound` to a request with some headers."""

    def answered(bound, host, path="/config", in_space=False, **headers):
        app = App.create_app(page, app_kwargs=app_settings(bound, in_space))
        client = TestClient(app, base_url=f"http://{host}")
        if path == JOIN:
            asked = {"fn_index": 0, "data": [], "session_hash": "s"}
            return client.post(path, json=asked, headers=headers)
        return client.get(path, headers=headers)

    return answered


@pytest.mark.parametrize("host", ["127.0.0.1:7860", "localhost:9000", "[::1]:7860", "LOCALHOST"])
def test_who_opens_the_page_on_this_machine_is_answered(answer, host):
    assert answer(LOCAL, host).status_code == 200
    assert answer(LOCAL, host, Origin=f"http://{host}").status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example:7860", "127.0.0.1.evil.example", "localhost.evil.example", "10.0.0.1"]
)
def test_a_website_whose_name_leads_to_this_machine_is_refused(answer, host):
    for path in ("/config", "/", JOIN):
        for headers in ({}, {"Origin": f"http://{host}"}):
            refused = answer(LOCAL, host, path, **headers)
            assert (refused.status_code, "frame-ancestors" in str(refused.headers)) == (403, True)


@pytest.mark.parametrize("bound", [LOCAL, EVERYWHERE])
@pytest.mark.parametrize(
    "origin", ["http://evil.example", "http://127.0.0.1:3000", "null", "http://127.0.0.1:78600"]
)
def test_a_website_that_writes_to_the_page_is_refused(answer, bound, origin):
    assert answer(bound, "127.0.0.1:7860", JOIN, Origin=origin).status_code == 403
    own = answer(bound, "127.0.0.1:7860", JOIN, Origin="http://127.0.0.1:7860")
    assert own.status_code == 200


def test_others_may_name_the_machine_as_they_do_if_the_page_is_theirs_too(answer):
    assert answer(EVERYWHERE, "office:7860", Origin="http://office:7860").status_code == 200
    space = "me-look.hf.space"
    assert answer(EVERYWHERE, space, JOIN, True, Origin=f"https://{space}").status_code == 200


def test_only_the_hub_may_show_a_space_in_a_frame_and_nobody_another_page(answer):
    for in_space, framed_by in ((False, "'none'"), (True, "https://huggingface.co")):
        bound = EVERYWHERE if in_space else LOCAL
        policy = answer(bound, "localhost", in_space=in_space).headers["content-security-policy"]
        assert f"frame-ancestors {framed_by}" in policy


@pytest.fixture(scope="module")
def client(page):
    """Somebody on this machine, who sees an error of the server as its answer."""
    app = App.create_app(page, app_kwargs=app_settings(LOCAL, False))
    return TestClient(app, base_url="http://localhost", raise_server_exceptions=False)


@pytest.mark.slow
@pytest.mark.parametrize("file", ["/etc/passwd", "pyproject.toml", "sgdmix_hub/_version.py"])
def test_no_way_of_gradio_leads_to_a_file(client, file):
    """The ways that Gradio has, and spellings that have fooled servers."""
    here = str(ROOT / file)
    ways = [
        *(f"/gradio_api/{way}={name}" for way in ("file", "proxy") for name in (file, here)),
        *(f"/gradio_api/file/{name}" for name in (file, here)),
        f"/gradio_api/file=file://{here}",
        f"/gradio_api/file=%2e%2e/%2e%2e/{here}",
        f"/gradio_api/file=..%2f..%2f..%2f..{here}",
        f"/gradio_api/file=%252e%252e%252f{here}",
        f"/static/../../../../../../..{here}",
        f"/static/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e{here}",
        f"/assets/..%2f..%2f..%2f..%2f..%2f..%2f..%2f..{here}",
        f"/svelte/..%2f..%2f..%2f..%2f..%2f..%2f..{here}",
        f"/custom_component/x/client/component/..%2f..{here}",
        f"/gradio_api/stream/s/0/0/..%2f..{here}",
        f"/gradio_api/deep_link?session_hash=../..{here}",
        f"/?deep_link=../..{here}",
    ]
    held = Path(here).read_text()[:200]
    for way in ways:
        assert held not in client.get(way).text, way


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a.txt", "../../a.txt"])
def test_no_file_is_taken(client, name):
    sent = {"files": (name, b"x" * 10_000)}
    refused = client.post("/gradio_api/upload", files=sent)
    assert refused.status_code >= 400, refused.text
