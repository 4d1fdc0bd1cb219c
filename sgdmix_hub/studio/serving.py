"""Serves a page: from this machine alone unless told otherwise, without anything from elsewhere."""

from __future__ import annotations

import ipaddress
import os
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import gradio as gr  # an extra

from sgdmix_hub.errors import UserError, first_line
from sgdmix_hub.runtime.ranks import say
from sgdmix_hub.runtime.signals import stopped_by
from sgdmix_hub.runtime.stopping import POLL_SECONDS

# The browser itself refuses what the page should never need: scripts, fonts and pictures of others.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; worker-src 'self' blob:; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; base-uri 'self'; object-src 'none'; "
    "frame-ancestors {framed_by}"
)
HUB = "https://huggingface.co"  # shows a Space in a frame
REFUSED = b"This page answers only at the address that the studio printed.\n"
LARGEST_UPLOAD = 1  # bytes: no part of the page takes files
# Of the machine: no font is loaded.
FONTS = ("system-ui", "sans-serif")
MONO_FONTS = ("ui-monospace", "monospace")
STYLE = """
.gradio-container .gr-group, .gradio-container .gr-group > .styler {
  background: var(--block-background-fill); }
.sgdmix-gone { display: none !important; }
.sgdmix-row { padding: 4px 0; }
.sgdmix-row h2 { font-size: 1rem; font-weight: 600; margin: 0 0 4px; overflow-wrap: anywhere; }
.sgdmix-pictures { display: flex; flex-wrap: wrap; gap: 8px; }
.sgdmix-pictures figure { margin: 0; width: 158px; max-width: calc(50% - 4px); }
.sgdmix-pictures img { width: 100%; height: auto; display: block; border-radius: 4px; }
.sgdmix-pictures figcaption { font-size: .85rem; overflow-wrap: anywhere; }
.sgdmix-none { aspect-ratio: 1; margin: 0; padding: 8px; border: 1px dashed #6b7280;
  font-size: .85rem; overflow-wrap: anywhere; overflow: hidden; }
.sgdmix-fact, .sgdmix-status, .sgdmix-hint { font-size: .9rem; margin: 4px 0;
  overflow-wrap: anywhere; }
.sgdmix-fact { font-size: .8rem; line-height: 1.4; }
.sgdmix-links a { text-decoration: underline; margin-right: 16px; }
@media (min-width: 760px) { .sgdmix-links a:not(:focus) { position: absolute; left: -9999px; } }
#page-number input { max-width: 14rem; }
.sgdmix-warning { font-size: .9rem; margin: 4px 0; padding: 2px 8px; color: #7a2e00;
  background: #fff1e6; border-left: 4px solid #b45309; overflow-wrap: anywhere; }
.sgdmix-error { margin: 4px 0; padding: 6px 8px; color: #8f1616; background: #fdeaea;
  border-left: 4px solid #b91c1c; overflow-wrap: anywhere; }
.sgdmix-intro h1 { font-size: 1.4rem; margin: 0; overflow-wrap: anywhere; }
.gradio-container :focus-visible { outline: 3px solid #1d4ed8 !important; outline-offset: 2px; }
.gradio-container { --body-text-color-subdued: #4b5563; --block-info-text-color: #4b5563;
  --input-placeholder-color: #5b6472; }
@media (prefers-color-scheme: dark) { .dark .sgdmix-warning { color: #ffd8b0; background: #3a2410; }
  .dark .sgdmix-error { color: #ffc9c9; background: #3d1414; } }
"""
Get = Callable[[], Any]


def theme() -> gr.themes.Base:
    """Gradio's plain look, with the fonts of the machine and buttons of enough contrast."""
    return gr.themes.Default(primary_hue="blue", font=FONTS, font_mono=MONO_FONTS).set(
        button_primary_background_fill="#1d4ed8",
        button_primary_background_fill_hover="#1e40af",
        button_primary_text_color="#ffffff",
        body_text_color_subdued="#4b5563",
        block_info_text_color="#4b5563",
        input_placeholder_color="#5b6472",
    )


class Guard:
    """ASGI middleware: refuses what pages of others ask of this one, and adds the policy to every
    answer.

    A page on this machine answers to no name but the machine's own, or any website could have its
    name lead here (DNS rebinding). A Space has the name that the Hub gives it, and keeps nothing.
    """

    def __init__(self, app: Any, host: str, in_space: bool):
        """`host`: the address that the server listens on."""
        self.app, self.here_alone, self.in_space = app, is_loopback(host), in_space
        policy = POLICY.format(framed_by=HUB if in_space else "'none'")
        self.headers = [
            (b"content-security-policy", policy.encode()),
            (b"x-content-type-options", b"nosniff"),
            (b"referrer-policy", b"no-referrer"),
        ]

    async def __call__(self, scope: dict, receive: Get, send: Callable) -> None:
        async def guarded(message: dict) -> None:
            if message["type"] == "http.response.start":
                message = message | {"headers": [*message.get("headers", []), *self.headers]}
            await send(message)

        if scope["type"] == "lifespan" or self._is_own(scope["headers"]):
            await self.app(scope, receive, guarded)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await guarded({"type": "http.response.start", "status": 403, "headers": []})
            await guarded({"type": "http.response.body", "body": REFUSED})

    def _is_own(self, headers: list[tuple[bytes, bytes]]) -> bool:
        """Whether a request comes from this page, or from somebody who opens it."""
        if self.in_space:
            return True
        hosts, origins = (
            [value.decode("latin-1").lower() for name, value in headers if name == wanted]
            for wanted in (b"host", b"origin")
        )
        if len(hosts) != 1 or (self.here_alone and not is_loopback(host_of(hosts[0]))):
            return False
        return all(origin in (f"http://{hosts[0]}", f"https://{hosts[0]}") for origin in origins)


def host_of(netloc: str) -> str:
    """The host of a "host:port"; empty if it is none."""
    try:
        return urlsplit(f"//{netloc}").hostname or ""
    except ValueError:
        return ""


def is_loopback(host: str) -> bool:
    """Whether an address can be reached from this machine alone."""
    try:
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def app_settings(host: str, in_space: bool) -> dict[str, Any]:
    """What Gradio's app gets beside the page: the guard, and no page about its interface."""
    from starlette.middleware import Middleware  # Gradio's

    guard = Middleware(Guard, host=host, in_space=in_space)
    return {"middleware": [guard], "docs_url": None, "redoc_url": None}


def serve(
    page: gr.Blocks,
    host: str,
    port: int | None,
    open_browser: bool,
    wait: bool = True,
    in_space: bool = False,
) -> str:
    """Serves the page until it is stopped (if `wait`); returns its address. Raises `UserError`."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        _, address, _ = page.queue(api_open=False).launch(
            server_name=host,
            server_port=port,
            inbrowser=open_browser,
            share=False,
            quiet=True,
            prevent_thread_lock=True,
            ssr_mode=False,
            pwa=False,
            mcp_server=False,
            enable_monitoring=False,
            show_error=False,
            footer_links=[],
            allowed_paths=[],
            max_file_size=LARGEST_UPLOAD,
            theme=theme(),
            css=STYLE,
            app_kwargs=app_settings(host, in_space),
        )
    except OSError as error:
        raise UserError(
            f"cannot listen on {host}, port {port or 'any from 7860'} ({first_line(error)}): "
            "choose another --host or --port"
        ) from None
    say(f"studio: {address} (Ctrl-C ends it)")
    while wait and not stopped_by():
        time.sleep(POLL_SECONDS)
    if wait:
        page.close(verbose=False)
    return address
