"""mkdocs hook: files of the repository that pages link to (`../path`) become part of the site."""

import re
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
OUTSIDE = re.compile(r"\]\(\.\./([^)#\s]+)")


def on_files(files, config):
    """Adds the linked files under `repository/`."""
    linked = {
        path
        for page in files.documentation_pages()
        for path in OUTSIDE.findall(page.content_string)
    }
    for path in sorted(linked):
        source = str(ROOT / path)
        files.append(File.generated(config, f"repository/{path}", abs_src_path=source))
    return files


def on_page_markdown(markdown, page, config, files):
    """Points the links there; pages outside docs/ have none."""
    return OUTSIDE.sub(r"](repository/\1", markdown)
