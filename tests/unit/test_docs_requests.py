"""A page of the documentation that would ask another place for something is found; `make docs` runs this."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
spec = importlib.util.spec_from_file_location("site_requests", ROOT / "docs" / "site_requests.py")
assert spec is not None
assert spec.loader is not None
site_requests = importlib.util.module_from_spec(spec)
spec.loader.exec_module(site_requests)


@pytest.mark.parametrize(
    "asks",
    [
        '<script src="https://cdn.example.org/a.js"></script>',
        '<link rel="stylesheet" href="//fonts.example.org/css?family=A">',
        '<link rel="preconnect" href="https://fonts.example.org">',
        '<img src="pictures/a.png" srcset="a.png 1x, https://example.org/b.png 2x">',
        '<p style="background: url(http://example.org/a.png)">',
        '<style>@import "https://example.org/a.css";</style>',
        '<iframe src="https://example.org"></iframe>',
        '<meta http-equiv="refresh" content="0; url=https://example.org">',
        '<pre class="mermaid"><code>graph LR</code></pre>',
        '<a href="https://forge.example.org/a/b" data-md-component="source">repository</a>',
    ],
)
def test_what_a_page_would_load_is_found(tmp_path, asks):
    (tmp_path / "page.html").write_text(f"<html><body>{asks}</body></html>")
    assert len(site_requests.requests_of_site(tmp_path)) == 1


def test_links_to_follow_pictures_of_the_site_and_words_are_no_requests(tmp_path):
    (tmp_path / "page.html").write_text(
        '<link rel="canonical" href="https://example.org/page"><a href="https://example.org">there</a>'
        '<img src="../pictures/a.png"><img src="data:image/png;base64,AA//"><script>a = "https://example.org"</script>'
        "<code>url(https://example.org)</code>"
    )
    (tmp_path / "own.css").write_text("a { background: url(data:image/svg+xml;base64,AA) } b { src: url('a.woff2') }")
    assert site_requests.requests_of_site(tmp_path) == []


def test_a_style_sheet_is_read_and_an_empty_folder_refused(tmp_path):
    with pytest.raises(ValueError, match="no pages: make docs"):
        site_requests.requests_of_site(tmp_path)
    (tmp_path / "page.html").write_text("<p>")
    (tmp_path / "theme.css").write_text('@import url("https://fonts.example.org/a.css");')
    assert site_requests.requests_of_site(tmp_path) == ["theme.css: https://fonts.example.org/a.css"]


def test_the_build_of_the_site_ends_with_it():
    hooks = (ROOT / "docs" / "site_hooks.py").read_text(encoding="utf-8")
    assert re.search(
        r"def on_post_build\(config\).*site_requests\.requests_of_site\(Path\(config\.site_dir\)\)", hooks, re.S
    )
