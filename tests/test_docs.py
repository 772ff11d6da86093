"""README and docs/: what they link to is there, every page is reached, and the handbook has a row for every alert."""

import re
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
HANDBOOK = ROOT / "docs" / "operations.md"


def links(page: Path) -> set[Path]:
    """Files of this project that a page links to or shows, also those that are not there."""
    found = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text())
    return {(page.parent / one).resolve() for one in found if "://" not in one}


def test_every_link_leads_to_a_file() -> None:
    missing = [f"{page.relative_to(ROOT)}: {target}" for page in PAGES for target in links(page) if not target.exists()]
    assert missing == []


def test_every_page_and_picture_is_reached_from_the_readme() -> None:
    reached, new = set(), {ROOT / "README.md"}
    while new:
        reached |= new
        pages = {page for page in new if page.suffix == ".md"} | {p for d in new if d.is_dir() for p in d.glob("*.md")}
        new = {target for page in pages for target in links(page) if target.is_relative_to(ROOT) and target.exists()} - reached
        new |= pages - reached
    assert {one for one in (ROOT / "docs").rglob("*.*") if one.is_file()} - reached == set()


def test_the_handbook_has_a_row_for_every_alert() -> None:
    rules = yaml.safe_load((ROOT / "kuberay" / "observability" / "alerts.yaml").read_text())
    alerts = {rule["alert"] for group in rules["groups"] for rule in group["rules"]}
    rows = {line.split("|")[1].strip(): line for line in HANDBOOK.read_text().splitlines() if line.startswith("| [")}
    assert {f"[{alert}](alerts/{alert}.md)" for alert in alerts} <= set(rows)
