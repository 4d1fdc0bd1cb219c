"""Serves a page: from this machine alone unless told otherwise, without anything from elsewhere."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import gradio as gr  # an extra

from sgdmix_hub.errors import UserError, first_line
from sgdmix_hub.runtime.ranks import say
from sgdmix_hub.runtime.signals import stopped_by
from sgdmix_hub.runtime.stopping import POLL_SECONDS

# The browser itself refuses what the page should never need: scripts, fonts and pictures of others.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; worker-src 'self' blob:; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; base-uri 'self'; object-src 'none'"
)
LARGEST_UPLOAD = 1  # bytes: no part of the page takes files
# Of the machine: no font is loaded.
FONTS = ("system-ui", "sans-serif")
MONO_FONTS = ("ui-monospace", "monospace")
STYLE = """
.sgdmix-row { border-top: 1px solid #8a8f98; padding: 8px 0 4px; }
.sgdmix-row h2 { font-size: 1rem; font-weight: 600; margin: 0 0 4px; overflow-wrap: anywhere; }
.sgdmix-pictures { display: flex; flex-wrap: wrap; gap: 8px; }
.sgdmix-pictures figure { margin: 0; width: 158px; max-width: calc(50% - 4px); }
.sgdmix-pictures img { width: 100%; height: auto; display: block; border-radius: 4px; }
.sgdmix-pictures figcaption { font-size: .85rem; overflow-wrap: anywhere; }
.sgdmix-none { aspect-ratio: 1; margin: 0; padding: 8px; border: 1px dashed #6b7280;
  font-size: .85rem; overflow-wrap: anywhere; overflow: hidden; }
.sgdmix-fact, .sgdmix-status, .sgdmix-hint { font-size: .9rem; margin: 4px 0;
  overflow-wrap: anywhere; }
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
    """ASGI middleware: adds the policy to every answer."""

    def __init__(self, app: Any):
        self.app = app

    async def __call__(self, scope: dict, receive: Get, send: Callable) -> None:
        async def guarded(message: dict) -> None:
            if message["type"] == "http.response.start":
                headers = [
                    (b"content-security-policy", POLICY.encode()),
                    (b"x-content-type-options", b"nosniff"),
                    (b"referrer-policy", b"no-referrer"),
                ]
                message = message | {"headers": [*message.get("headers", []), *headers]}
            await send(message)

        await self.app(scope, receive, guarded)


def serve(
    page: gr.Blocks, host: str, port: int | None, open_browser: bool, wait: bool = True
) -> str:
    """Serves the page until it is stopped (if `wait`); returns its address. Raises `UserError`."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    from starlette.middleware import Middleware  # Gradio's

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
            app_kwargs={"middleware": [Middleware(Guard)], "docs_url": None, "redoc_url": None},
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
