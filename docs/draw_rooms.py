"""Draws the rooms of the package into docs/architecture.md, from the code.

    python docs/draw_rooms.py           # writes the page
    python docs/draw_rooms.py --check   # fails where the page is out of date

The floors are those of pyproject.toml, the arrows the imports that are there, and what a room holds
is the first sentence of its docstring.
"""

from __future__ import annotations

import ast
import sys
import tomllib
from pathlib import Path

import grimp

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "architecture.md"
START, END = "<!-- drawn by docs/draw_rooms.py -->", "<!-- end of the drawing -->"
MOST_ROOMS = 20


def read_floors() -> list[list[str]]:
    """Rooms by floor, the highest floor first."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = settings["tool"]["importlinter"]["contracts"]
    (layers,) = (one["layers"] for one in contracts if one["type"] == "layers")
    return [[room.strip() for room in floor.split("|")] for floor in layers]


def read_arrows(rooms: list[str]) -> dict[str, set[str]]:
    """The rooms that each room imports from."""
    graph = grimp.build_graph("alhpo", cache_dir=None)
    arrows: dict[str, set[str]] = {room: set() for room in rooms}
    for module in graph.modules - {"alhpo"}:
        for imported in graph.find_modules_directly_imported_by(module) - {"alhpo"}:
            here, there = (name.split(".")[1] for name in (module, imported))
            if here != there:
                arrows[here].add(there)
    return arrows


def check(floors: list[list[str]], arrows: dict[str, set[str]]) -> None:
    """Refuse more rooms than anyone can keep in mind, and arrows that do not go down."""
    height = {room: -i for i, floor in enumerate(floors) for room in floor}
    if unknown := sorted(set(arrows) - set(height)):
        sys.exit(f"On no floor of pyproject.toml: {', '.join(unknown)}.")
    if len(height) > MOST_ROOMS:
        sys.exit(f"{len(height)} rooms; at most {MOST_ROOMS} can be kept in mind.")
    upward = [
        f"{room} -> {other}"
        for room, others in arrows.items()
        for other in others
        if height[other] >= height[room]
    ]
    if upward:
        sys.exit(f"Arrows that do not go down: {', '.join(sorted(upward))}.")


def essential(arrows: dict[str, set[str]]) -> dict[str, set[str]]:
    """The arrows without those that a way through another room stands for."""

    def below(room: str) -> set[str]:
        return arrows[room].union(*(below(other) for other in arrows[room]))

    return {
        room: others - set().union(*(below(other) for other in others))
        for room, others in arrows.items()
    }


def draw(floors: list[list[str]], arrows: dict[str, set[str]]) -> str:
    """The figure and the table, in Markdown."""
    lines = ["```mermaid", "flowchart TD"]
    for i, floor in enumerate(floors):
        lines.append(f'  subgraph floor{len(floors) - i}["floor {len(floors) - i}"]')
        lines += [f"    {room}" for room in floor]
        lines.append("  end")
    drawn = essential(arrows)
    lines += [f"  {room} --> {other}" for room in drawn for other in sorted(drawn[room])]
    lines.append("```")
    total = sum(map(len, arrows.values()))
    lines.append(
        f"\n{len(arrows)} rooms on {len(floors)} floors, {total} arrows, none upward. Drawn are "
        f"the {sum(map(len, drawn.values()))} that no way through other rooms stands for.\n"
    )
    lines.append("| floor | room | what lives there | modules | imports from |")
    lines.append("|---:|---|---|---:|---|")
    for i, floor in enumerate(floors):
        for room in floor:
            path = ROOT / "alhpo" / room
            file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
            modules = [one for one in path.rglob("*.py") if one.name != "__init__.py"] or [file]
            imported = ", ".join(sorted(arrows[room])) or "–"
            about = first_sentence(file)
            lines.append(
                f"| {len(floors) - i} | `{room}` | {about} | {len(modules)} | {imported} |"
            )
    return "\n".join(lines)


def first_sentence(file: Path) -> str:
    """Of a module's docstring, in one line, as text of a table."""
    docstring = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8")))
    if not docstring:
        sys.exit(f"{file.relative_to(ROOT)} does not say what it holds: it has no docstring.")
    text = " ".join(docstring.partition("\n\n")[0].split())
    return text.replace("``", "`").replace("|", r"\|")


def main(arguments: list[str]) -> None:
    floors = read_floors()
    arrows = read_arrows([room for floor in floors for room in floor])
    check(floors, arrows)
    page = PAGE.read_text(encoding="utf-8")
    before, start, rest = page.partition(START)
    _, end, after = rest.partition(END)
    if not (start and end):
        sys.exit(f"{PAGE.relative_to(ROOT)} lacks the lines {START} and {END}.")
    drawn = f"{before}{START}\n\n{draw(floors, arrows)}\n\n{END}{after}"
    if arguments == ["--check"]:
        if drawn != page:
            sys.exit(
                f"{PAGE.relative_to(ROOT)} is out of date. Write it: python docs/draw_rooms.py"
            )
    elif arguments:
        sys.exit(f"Unknown: {' '.join(arguments)}. The only option is --check.")
    else:
        PAGE.write_text(drawn, encoding="utf-8")


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main(sys.argv[1:])
