"""How simple the tree at hand is: rooms, circles, long functions, vague names, comments, records, start-up time.

    python -m research.house.measure [--root FOLDER] [--json]

It reads the sources and runs one command, `monosemy --help`; nothing of the tree is imported. So it measures any
commit that is unpacked somewhere. Measured are the packages `monosemy` and `research` (`benchmarks` in older trees) and
the folder `tests`. The comment share alone leaves the tests out: it is to show whether clever code is explained.

Definitions:
- Circle: modules that import each other, directly or through others. Imports inside functions count too.
- Bound name: the target of an assignment (walrus, `for`, `with`, comprehension, `except` and `match` included) or a
  parameter; each place counts once. It is vague when it is one of `VAGUE`, whatever its plural, number or underscores.
- Bound name of TypeScript: what stands after `const`, `let` or `var`, destructured or not, and parameters of functions
  and arrows, found by regular expressions in the text without comments and strings. Fields of types, imports, methods
  of classes and `catch` are left out.
- Comment line: a line with a comment that is written for a reader; directives to tools (`noqa`, `type:`, `fmt:`) and
  docstrings are not counted. Code line: a line with any other token, docstrings left out.
- Length of a function: lines from its `def` to its last, without decorators.

`tests/research/test_house.py` holds the limits on circles, functions, parameters, files, names and recorded results.

Standard library only. Limits: of TypeScript only names are measured, and without a parser, so that a parameter whose
default value has brackets or commas may be missed; CPU time depends on the machine.
"""

from __future__ import annotations

import argparse
import ast
import io
import json
import os
import re
import statistics
import subprocess
import sys
import tokenize
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import KW_ONLY, asdict, dataclass
from pathlib import Path

# Participles that say what happened to a thing but not what the thing is; pronouns and words that fit any value; and
# placeholders.
PARTICIPLES = "found kept chosen known shown told untold made given asked wanted said taken seen meant begun listed"
PRONOUNS = "one mine every it this that what which something anything everything whatever thing stuff"
PLACEHOLDERS = "tmp temp foo baz obj res ret val misc data2"
VAGUE = frozenset(f"{PARTICIPLES} {PRONOUNS} {PLACEHOLDERS}".split())
"""Names that give neither type nor role. `data` is not one of them: the term for a file's bytes or a record's body."""
DIRECTIVE = re.compile(r"#\s*(noqa|type:|fmt:|mypy:|ruff:|pragma|!)")
RESULTS = "*/results/*.json"
"""Recorded results: what studies keep, by the folder's name in this tree and in older ones."""
HELP_RUNS = 7
FOLDERS = ("monosemy", "research", "benchmarks", "tests")


@dataclass(frozen=True)
class Module:
    """One source file: its dotted name, its room, its text and its syntax tree."""

    name: str
    room: str
    path: Path
    text: str
    _: KW_ONLY
    tree: ast.Module


@dataclass(frozen=True)
class Room:
    """Size and names of a package of the first level."""

    room: str
    files: int
    lines: int
    code_lines: int
    _: KW_ONLY
    comment_lines: int
    bound_names: int
    vague_names: int


@dataclass(frozen=True)
class House:
    """All measures of a tree."""

    rooms: list[Room]
    circles: list[list[str]]
    longest_function: str
    longest_function_lines: int
    functions_over_80_lines: int
    most_parameters: str
    most_parameters_count: int
    functions_over_8_parameters: int
    longest_file: str
    longest_file_lines: int
    vague_share: float
    vague_names: dict[str, int]
    comments_per_100_code_lines: float
    fmt_skips: int
    typescript_names: int
    typescript_vague: dict[str, int]
    result_json_lines: int
    other_json_lines: int
    help_cpu_seconds: float | None


def read_modules(root: Path) -> list[Module]:
    """Every Python file of the measured folders under `root`, by path."""
    modules = []
    for package in FOLDERS:
        for path in sorted((root / package).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            room = "/".join(parts[:2]) if package == "monosemy" and len(parts) > 2 else package
            text = path.read_text(encoding="utf-8")
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            if parts[:2] == ("tests", "cases"):
                name = path.stem  # as the tests import their helpers, whose folder is on the path
            modules.append(Module(name, room, path.relative_to(root), text, tree=ast.parse(text)))
    return modules


def bound_names(tree: ast.AST) -> Iterator[str]:
    """The names that a module binds, each as often as it does."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, (ast.ExceptHandler, ast.MatchAs, ast.MatchStar)) and node.name:
            yield node.name


def is_vague(name: str) -> bool:
    """True for a word of `VAGUE`, also in the plural, with a number, or between underscores."""
    stem = re.sub(r"_?\d+$", "", name.strip("_").lower())
    return bool({name, stem, stem.removesuffix("s")} & VAGUE)


_TYPESCRIPT_SILENT = re.compile(
    r"/\*.*?\*/|(?<!:)//[^\n]*|\"(?:\\\\.|[^\"\\\\\n])*\"|'(?:\\\\.|[^'\\\\\n])*'", re.DOTALL
)
_TYPESCRIPT_TYPES = re.compile(r":\s*(?:\{[^{}]*\}|\[[^\[\]]*\]|\([^()]*\)\s*=>\s*[\w.<>|\[\] ]+)")
_TYPESCRIPT_BINDERS = re.compile(
    r"\b(?:const|let|var)\s+(?:([\w$]+)|[\[{]([^=;]*?)[\]}]\s*(?:=|:|of\b))"
    r"|\bfunction\s*[\w$]*\s*(?:<[^>()]*>)?\(([^()]*)\)"
    r"|\(([^()]*)\)\s*(?::[^=(){}]*)?=>"
    r"|\b([\w$]+)\s*=>"
)
_BRACKETS = re.compile(r"[\[{]([^\[\]{}]*)[\]}]")
_DESTRUCTURED = re.compile(r"(?:^|,)\s*(?:\.\.\.)?(?:[\w$]+\s*:\s*)?([A-Za-z_$][\w$]*)")
_PARAMETER = re.compile(r"(?:^|,)\s*(?:\.\.\.)?([A-Za-z_$][\w$]*)")


def typescript_names(text: str) -> Iterator[str]:
    """The names that a TypeScript file binds, each as often as it does; see the module's definition and limits."""
    text = _TYPESCRIPT_SILENT.sub('""', text)
    text = _TYPESCRIPT_TYPES.sub("", text)  # a type's own braces would look like destructured names
    for binder in _TYPESCRIPT_BINDERS.finditer(text):
        name, destructured, *parameters, single = binder.groups()
        if name or single:
            yield name or single
        yield from _DESTRUCTURED.findall(destructured or "")
        for group in parameters:
            group = re.sub(r"<[^<>]*>", "", group or "")  # commas of generic types
            for inner in _BRACKETS.findall(group):
                yield from _DESTRUCTURED.findall(inner)
            yield from _PARAMETER.findall(_BRACKETS.sub("", group))


def read_typescript(root: Path) -> list[str]:
    """The sources of the browser's pages under `root`, by path; types.ts is left out, since it is made from Python."""
    sources = root / "monosemy" / "app" / "web" / "src"
    paths = sorted(path for path in sources.rglob("*") if path.suffix in (".ts", ".tsx", ".js"))
    return [path.read_text(encoding="utf-8") for path in paths if path.name != "types.ts"]


def vague_counts(modules: list[Module]) -> tuple[int, Counter[str]]:
    """Bound names in all, and how often each vague one is bound."""
    names = [name for module in modules for name in bound_names(module.tree)]
    return len(names), Counter(name for name in names if is_vague(name))


def line_counts(module: Module) -> tuple[int, int]:
    """(code lines, comment lines) of a module."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings: set[int] = set()
    for node in ast.walk(module.tree):
        for statement in node.body if isinstance(node, documented) else ():
            if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
                docstrings.update(range(statement.lineno, (statement.end_lineno or 0) + 1))
    silent = {tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENCODING, tokenize.ENDMARKER}
    code: set[int] = set()
    comments: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(module.text).readline):
        if token.type == tokenize.COMMENT:
            if not DIRECTIVE.match(token.string):
                comments.add(token.start[0])
        elif token.type not in silent:
            code.update(range(token.start[0], token.end[0] + 1))
    return len(code - docstrings), len(comments)


def imports(module: Module, names: set[str]) -> set[str]:
    """The measured modules that a module imports anywhere in its text."""
    targets: set[str] = set()
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            targets.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            members = (f"{node.module}.{alias.name}" for alias in node.names)
            targets.update(member if member in names else node.module for member in members)
    return (targets & names) - {module.name}


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """The strongly connected components of more than one module (Tarjan 1972)."""
    order: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    components = []

    def visit(name: str) -> None:
        order[name] = lowest[name] = len(order)
        stack.append(name)
        for target in sorted(graph[name]):
            if target not in order:
                visit(target)
                lowest[name] = min(lowest[name], lowest[target])
            elif target in stack:
                lowest[name] = min(lowest[name], order[target])
        if lowest[name] == order[name]:
            component = stack[stack.index(name) :]
            del stack[-len(component) :]
            if len(component) > 1:
                components.append(sorted(component))

    for name in sorted(graph):
        if name not in order:
            visit(name)
    return components


def functions(modules: list[Module]) -> Iterator[tuple[str, int, int]]:
    """(place, lines, parameters) of every function; `self` and `cls` are not counted."""
    for module in modules:
        for node in ast.walk(module.tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                arguments = node.args
                parameters = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
                parameters += [extra for extra in (arguments.vararg, arguments.kwarg) if extra]
                n_parameters = sum(parameter.arg not in ("self", "cls") for parameter in parameters)
                yield f"{module.path}:{node.name}", (node.end_lineno or 0) - node.lineno + 1, n_parameters


def tracked_json_lines(root: Path, pattern: str = "*.json") -> int:
    """Lines of the JSON files that match `pattern` and that git tracks; of all where the tree is no repository."""
    listing = subprocess.run(["git", "ls-files", pattern], cwd=root, capture_output=True, text=True)
    paths = listing.stdout.split("\n") if listing.returncode == 0 else [str(p) for p in root.rglob(pattern)]
    return sum((root / path).read_bytes().count(b"\n") for path in paths if path and (root / path).is_file())


def help_cpu_seconds(root: Path) -> float | None:
    """Median processor time of `monosemy --help`; None where processes cannot be waited for (Windows)."""
    if not hasattr(os, "wait4"):
        return None
    seconds = []
    for _ in range(HELP_RUNS):
        process = subprocess.Popen(
            [sys.executable, "-m", "monosemy", "--help"],
            cwd=root,
            env={**os.environ, "PYTHONPATH": str(root)},
            stdout=subprocess.DEVNULL,
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            raise RuntimeError(f"monosemy --help of {root} ended with status {process.returncode}")
        seconds.append(usage.ru_utime + usage.ru_stime)
    return statistics.median(seconds)


def measure_rooms(modules: list[Module]) -> list[Room]:
    """One row a room, and one for the modules directly in a package."""
    by_room: dict[str, list[Module]] = defaultdict(list)
    for module in modules:
        by_room[module.room].append(module)
    rooms = []
    for room, members in sorted(by_room.items()):
        code, comments = (sum(counts) for counts in zip(*(line_counts(module) for module in members), strict=True))
        n_names, vague = vague_counts(members)
        n_lines = sum(module.text.count("\n") for module in members)
        rooms.append(
            Room(
                room,
                files=len(members),
                lines=n_lines,
                code_lines=code,
                comment_lines=comments,
                bound_names=n_names,
                vague_names=vague.total(),
            )
        )
    return rooms


def measure(root: Path) -> House:
    """Every measure of the tree under `root`."""
    modules = read_modules(root)
    names = {module.name for module in modules}
    rooms = measure_rooms(modules)
    n_names, vague = vague_counts(modules)
    definitions = list(functions(modules))
    longest = max(definitions, key=lambda definition: definition[1])
    widest = max(definitions, key=lambda definition: definition[2])
    largest = max(modules, key=lambda module: module.text.count("\n"))
    commented = [room for room in rooms if room.room != "tests"]
    typescript = [name for text in read_typescript(root) for name in typescript_names(text)]
    result_lines = tracked_json_lines(root, RESULTS)
    code_lines = sum(room.code_lines for room in commented)
    return House(
        rooms=rooms,
        circles=circles({module.name: imports(module, names) for module in modules}),
        longest_function=longest[0],
        longest_function_lines=longest[1],
        functions_over_80_lines=sum(n_lines > 80 for _, n_lines, _ in definitions),
        most_parameters=widest[0],
        most_parameters_count=widest[2],
        functions_over_8_parameters=sum(n_parameters > 8 for _, _, n_parameters in definitions),
        longest_file=str(largest.path),
        longest_file_lines=largest.text.count("\n"),
        vague_share=vague.total() / n_names,
        vague_names=dict(vague.most_common()),
        comments_per_100_code_lines=100 * sum(room.comment_lines for room in commented) / code_lines,
        fmt_skips=sum(
            len(re.findall(r"#\s*fmt:\s*skip", module.text)) for module in modules if "house" not in module.name
        ),
        typescript_names=len(typescript),
        typescript_vague=dict(Counter(name for name in typescript if is_vague(name)).most_common()),
        result_json_lines=result_lines,
        other_json_lines=tracked_json_lines(root) - result_lines,
        help_cpu_seconds=help_cpu_seconds(root),
    )


def as_text(house: House) -> str:
    """The measures as two tables: rooms, then the whole."""
    lines = [f"{'room':24}{'files':>6}{'lines':>8}{'comments/100':>14}{'names':>8}{'vague':>7}{'vague %':>9}"]
    for room in house.rooms:
        comments = 100 * room.comment_lines / max(1, room.code_lines)
        share = 100 * room.vague_names / max(1, room.bound_names)
        lines.append(
            f"{room.room:24}{room.files:6}{room.lines:8}{comments:14.1f}{room.bound_names:8}{room.vague_names:7}{share:9.2f}"
        )
    n_files, n_lines = sum(room.files for room in house.rooms), sum(room.lines for room in house.rooms)
    seconds = "not measured here" if house.help_cpu_seconds is None else f"{house.help_cpu_seconds:.3f} s of CPU"
    vague, typescript = (
        ", ".join(f"{name} {count}" for name, count in counts.items()) or "none"
        for counts in (house.vague_names, house.typescript_vague)
    )
    whole = {
        "files, lines": f"{n_files}, {n_lines:,}",
        "import circles": "; ".join(" ↔ ".join(circle) for circle in house.circles) or "none",
        "longest file": f"{house.longest_file_lines} lines ({house.longest_file})",
        "longest function": f"{house.longest_function_lines} lines ({house.longest_function}); "
        f"{house.functions_over_80_lines} over 80",
        "most parameters": f"{house.most_parameters_count} ({house.most_parameters}); "
        f"{house.functions_over_8_parameters} over 8",
        "vague names": f"{100 * house.vague_share:.2f}% of bound names ({vague})",
        "in TypeScript": f"{sum(house.typescript_vague.values())} of {house.typescript_names:,} names ({typescript})",
        "comments": f"{house.comments_per_100_code_lines:.1f} lines per 100 code lines",
        "# fmt: skip": str(house.fmt_skips),
        "tracked JSON": f"{house.result_json_lines:,} lines of results, {house.other_json_lines:,} others",
        "monosemy --help": f"{seconds} (median of {HELP_RUNS})",
    }
    return "\n".join([*lines, "", *(f"{label:18}{value}" for label, value in whole.items())])


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure how simple a tree of monosemy is.")
    parser.add_argument("--root", type=Path, default=Path(__file__).parents[2], help="the tree (default: this one)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument("--record", choices=("before", "after"), help="keep the measures as this side of the record")
    arguments = parser.parse_args()
    house = measure(arguments.root.resolve())
    if arguments.record:
        from research.records import record_path, write_record

        path = record_path("house")
        sides = json.loads(path.read_text()) if path.exists() else {}
        write_record(path, {**sides, arguments.record: asdict(house)})
    print(json.dumps(asdict(house), indent=1) if arguments.json else as_text(house))


if __name__ == "__main__":
    main()
