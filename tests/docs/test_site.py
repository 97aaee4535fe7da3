"""The pages, links and generated parts of the documentation; needs no MkDocs, with which ``make docs`` builds it."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest
import yaml

from docs import hooks
from flows.cli.command_line import _parser
from mmface.config.reference import reference

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
LINK = re.compile(r"\]\(([^)\s]+)\)")
FENCES = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
PACKAGES = ("mmface", "ray_jobs", "serve", "flows", "infra")


@cache
def pages() -> dict[str, str]:
    """Path below ``docs/`` → Markdown, generated pages included."""
    written = {str(path.relative_to(DOCS)): path.read_text(encoding="utf-8") for path in DOCS.rglob("*.md")}
    return written | {path: make() for path, make in hooks.PAGES.items()}


def anchors(text: str) -> set[str]:
    """Ids of the headings and elements of a page, as Markdown's ``toc`` makes them."""
    found = set(re.findall(r'id="([^"]+)"', text)) | set(re.findall(r"^#+ .*\{ #(\S+) \}$", text, re.MULTILINE))
    for heading in re.findall(r"^#+ (.*?)(?: \{ #\S+ \})?$", FENCES.sub("", text), re.MULTILINE):
        plain = re.sub(r"[^\w\s-]", "", heading.replace("`", "")).strip().lower()
        found.add(re.sub(r"[-\s]+", "-", plain))
    return found


def nav(entries: list[object]) -> list[str]:
    """Pages that the navigation names."""
    found: list[str] = []
    for entry in entries:
        for value in entry.values() if isinstance(entry, dict) else (entry,):
            found += nav(value) if isinstance(value, list) else [str(value)]
    return found


def configuration() -> dict[str, object]:
    return dict(yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8")))


def test_the_navigation_names_every_page_once() -> None:
    entries = configuration()["nav"]
    assert isinstance(entries, list)
    assert sorted(nav(entries)) == sorted(pages())


def test_no_page_loads_anything_from_the_network() -> None:
    theme = configuration()["theme"]
    assert isinstance(theme, dict)
    assert theme["font"] is False
    assert configuration()["plugins"] == ["search"]
    for name, text in pages().items():
        assert not re.search(r"!\[[^\]]*\]\(\w+://|<(script|link|img|iframe)\b", text), name
    drawn = (DOCS / "architecture.svg").read_text(encoding="utf-8")
    assert "prefers-color-scheme: dark" in drawn
    assert re.findall(r"https?://\S+?(?=\")", drawn) == ["http://www.w3.org/2000/svg"]


@pytest.mark.parametrize("source", ["README.md", "infra/README.md", "docs"])
def test_every_link_leads_somewhere(source: str) -> None:
    if source == "docs":
        texts = {DOCS / name: text for name, text in pages().items()}
    else:
        texts = {ROOT / source: (ROOT / source).read_text(encoding="utf-8")}
    broken = []
    for path, text in texts.items():
        for link in LINK.findall(FENCES.sub("", text)):
            if re.match(r"\w+:", link):
                continue
            target, _, anchor = link.partition("#")
            place = (path.parent / target).resolve() if target else path
            known = pages().get(str(place.relative_to(DOCS))) if place.is_relative_to(DOCS) else None
            there = known is not None or place.exists()
            if not there or (anchor and anchor not in anchors(known or place.read_text(encoding="utf-8"))):
                broken.append((path.name, link))
    assert broken == []


def test_every_path_of_the_repository_that_a_page_names_exists() -> None:
    named = {
        (name, path)
        for name, text in pages().items()
        if name != "changelog.md"
        for path in re.findall(r"`((?:mmface|serve|flows|ray_jobs|infra|tests)/[\w./-]+)`", text)
    }
    assert len(named) > 20
    made_by_a_script = {"infra/compose/.env"}
    assert {(name, path) for name, path in named if not (ROOT / path).exists()} == {
        (name, path) for name, path in named if path in made_by_a_script
    }


def test_the_readme_is_a_landing_page() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 160
    measured = text.partition("## Measured")[2].partition("\n## ")[0]
    rows = [line for line in measured.splitlines() if line.startswith("|")][2:]
    assert 1 <= len(rows) <= 12


def test_figures_of_the_readme_are_those_of_the_benchmarks() -> None:
    measured = (ROOT / "README.md").read_text(encoding="utf-8").partition("## Measured")[2].partition("\n## ")[0]
    rows = [line.split("|")[1:-1] for line in measured.splitlines() if line.startswith("|")][2:]
    for *_, value in rows:
        for figure in re.findall(r"\d[\d.,]*\d|\d", value):
            assert figure in pages()["benchmarks/index.md"], figure


def test_the_glossary_has_at_most_thirty_terms() -> None:
    terms = re.findall(r"^\| \*\*(.+?)\*\* \|", pages()["glossary.md"], re.MULTILINE)
    assert 0 < len(terms) == len(set(terms)) <= 30


def test_the_environment_page_has_every_variable_that_the_code_reads() -> None:
    read = set()
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*"):
            if path.suffix in (".py", ".sh", ".yaml"):
                read |= set(re.findall(r"\bMMFACE_[A-Z_]+[A-Z]\b", path.read_text(encoding="utf-8")))
    told = re.findall(r"`([A-Z][A-Z0-9_]+)`", pages()["reference/environment.md"])
    assert {"MMFACE_HOME", "MMFACE_API_KEY"} <= read
    assert read - set(told) == set()


def test_the_recipe_page_has_every_key_with_its_meaning() -> None:
    page = pages()["reference/recipe.md"]
    for entry in reference():
        assert f"<code>{entry.key}</code>" in page or f"`{entry.key}`" in page, entry.key


def test_the_command_line_page_has_every_command_and_option() -> None:
    page = pages()["reference/cli.md"]
    for command in _parser()._subparsers._group_actions[0].choices:  # type: ignore[union-attr]
        assert f"## `mmface {command}`" in page
    assert "--gpu-memory GIB" in page
    assert "### `mmface datasets gc`" in page


def test_the_metrics_page_has_every_metric() -> None:
    page = pages()["reference/metrics.md"]
    for path in hooks.GAUGES.values():
        named = set(re.findall(r'"(mmface_\w+)"', (ROOT / path).read_text(encoding="utf-8")))
        assert named
        assert {name for name in named if f"<code>{name}</code>" not in page} == set()


def test_every_question_has_a_link() -> None:
    questions = pages()["questions.md"].split("\n## ")[1:]
    assert len(questions) >= 10
    for question in questions:
        assert "\n→ [" in question, question.splitlines()[0]
