"""What is put into a page is escaped once, and a page may do nothing but run its own script."""

from __future__ import annotations

import base64
import hashlib
import re
import tomllib
from pathlib import Path

import monosemy
from monosemy.support.html import Html, details, document, escape, join, read_part

HOSTILE = "<script>alert('1')</script> & \u202e\x1b"
ESCAPED = "&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt; &amp; ⟨U+202E⟩␛"
PAGE = {"title": HOSTILE, "style": "p{color:red}", "skip": "Skip", "lede": "", "foot": HOSTILE}


def test_every_way_into_html_escapes_once():
    assert escape(HOSTILE) == ESCAPED
    assert escape(escape(HOSTILE)) == ESCAPED
    assert Html("<p>{}</p>").format(HOSTILE) == f"<p>{ESCAPED}</p>"
    assert Html("<p>{}</p>").format(Html("<b>x</b>")) == "<p><b>x</b></p>"
    assert Html("<p>") + HOSTILE == f"<p>{ESCAPED}"
    assert join([HOSTILE, Html("<br>")], "|") == f"{ESCAPED}|<br>"
    assert details(HOSTILE, Html("<i>x</i>")) == f"<details><summary>{ESCAPED}</summary><i>x</i></details>"


def test_what_a_template_names_is_escaped_but_for_html():
    page = document("report/report.html", contents=[(HOSTILE, HOSTILE)], body=Html("<p>x</p>"), **PAGE)
    assert f"<title>{ESCAPED}</title>" in page
    assert f'<li><a href="#{ESCAPED}">{ESCAPED}</a></li>' in page
    assert f"<footer><p>{ESCAPED}</p></footer>" in page
    assert "<p>x</p>" in page
    assert "<script" not in page


def test_a_page_runs_the_script_that_its_policy_names_by_hash_and_no_other():
    plain = document("support/html/frame.html", body="", **PAGE)
    assert "script-src" not in plain
    script = read_part("report/sort.js")
    page = document("support/html/frame.html", body="", script=script, **PAGE)
    inside = re.findall(r"<script>(.*?)</script>", page, flags=re.DOTALL)
    assert inside == [str(script)]
    digest = base64.b64encode(hashlib.sha256(inside[0].encode()).digest()).decode()
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy is not None
    assert policy[1] == f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"


def test_templates_styles_and_scripts_are_in_the_wheel():
    package = Path(monosemy.__file__).parent
    settings = tomllib.loads((package.parent / "pyproject.toml").read_text("utf-8"))
    packed = {
        path for glob in settings["tool"]["setuptools"]["package-data"]["monosemy"] for path in package.glob(glob)
    }
    needed = {p for kind in ("html", "css", "js") for p in package.rglob(f"*.{kind}") if "web" not in p.parts}
    assert needed <= packed
