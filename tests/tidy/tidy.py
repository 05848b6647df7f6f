"""What no compiler checks: the include table, sizes, banned calls and the form of every file.

    python3 tests/tidy/tidy.py [ROOT]      prints PATH:LINE: RULE: what; exit status 1 if any
    python3 tests/tidy/tidy.py --unused    entries of the include table that nothing uses
"""

import ast
import os
import pathlib
import re
import sys
from collections import namedtuple

# For each folder the folders that it may include. Extend it on purpose: an arrow costs more than a
# line. Arrows go up only: a folder stands below everything that it includes.
MAY_INCLUDE = {
    "host/core": "",
    "host/tensor": "core",
    "host/device": "core",
    "host/cpu": "core tensor device",
    "host/graph": "core tensor device",
    "host/nn": "core tensor device graph",
    "host/optim": "core device",
    "host/data": "core tensor device",
    "host/job": "core tensor device cpu graph nn optim data",
    "host/reduce": "core device graph",
    "host/strategy": "core reduce",
    "host/cluster": "core reduce",
    "host/checkpoint": "core tensor",
    "host/runtime": "core tensor device graph nn optim data job reduce strategy cluster checkpoint",
    "host/keras": "core tensor device graph nn optim data job",
    "host/train": "core tensor device graph nn optim data job reduce strategy cluster checkpoint "
                  "runtime keras",
    "host/observe": "core job cluster train",
    "host/cli": "core tensor device cpu graph nn optim data job reduce strategy cluster checkpoint "
                "runtime keras train observe /cuda /rpc /models",
    "cuda": "core tensor device graph",
    "rpc": "core job cluster runtime",
    "models": "core tensor device graph nn optim job",
}
# Headers of the system that belong to one folder, and of Thrift's generated code.
VENDOR_HEADERS = {
    "cuda": re.compile(r"cuda(_|\.h|/std/)|cudnn|cublas|nccl|nvtx|cub/|thrust/|cooperative_groups"),
    "rpc": re.compile(r"thrift/|wire/|openssl/(ssl|x509)"),
    "host/keras": re.compile(r"hdf5(_hl)?\.h|H5"),
}

MAX_LINES = {".cc": 500, ".h": 500, ".py": 500, ".cu": 800}
MAX_FUNCTION_LINES = 70
MAX_COLUMNS = 100
CPP = {".cc", ".h", ".cu"}
CODE = CPP | {".py", ".cmake", ".thrift", ".sh"}
TEXT = CODE | {".txt", ".md", ".json", ".yaml", ".yml", ".toml", ".csv"}
SKIPPED_FOLDERS = {".git", "build", "out", "shared", "__pycache__", ".venv"}
# Written in two pieces, or this file would report itself.
WORKPLACE = re.compile(r"(?<![\w.}])/wo" r"rk/")

Finding = namedtuple("Finding", "path line rule what")
Ban = namedtuple("Ban", "rule pattern where but what", defaults=("",))

# A call by this name, plain or of std, but no member and nothing of another namespace.
CALL = r"(?<!void )(?<![\w.>:])(?:std::|::)?(?:%s)\s*\("
OWN = ("host/", "rpc/", "cuda/", "models/")
OBJECT = r"(?:\s*<[^;={(]*>)?\s+\w+\s*[;={\[]"
BANS = [
    Ban("exit", CALL % "exit|_Exit|quick_exit|abort|terminate", OWN + ("tests/",),
        ("host/cli/main.cc", "host/core/check.h"), "return a Result, or use LOCKSTEP_CHECK"),
    Ban("exit", CALL % "_exit", OWN, ("host/cli/main.cc", "host/runtime/"),
        "only a forked child may"),
    Ban("banned-call", CALL % "s?rand|strcpy|strcat|v?sprintf|gets|system", OWN + ("tests/",), (),
        "it is unsafe, or not reproducible"),
    Ban("detach", r"(?:\.|->)detach\s*\(", OWN + ("tests/",), (), "join every thread"),
    Ban("using-std", r"\busing\s+namespace\s+std\b", OWN + ("tests/",), (), "name what you use"),
    Ban("assert", r"(?<![\w.])assert\s*\(", OWN, (), "use LOCKSTEP_CHECK, which release keeps"),
    Ban("libm", CALL % (r"(?:exp|exp2|expm1|log|log2|log10|log1p|pow|sin|cos|tan|asin|acos|atan|"
                        r"atan2|sinh|cosh|tanh|erf|erfc|cbrt|hypot|rsqrt|tgamma|lgamma)[fl]?"),
        ("host/cpu/", "host/graph/", "host/nn/", "host/optim/", "host/reduce/", "cuda/"), (),
        "its bits differ between machines: use host/core/math.h"),
    Ban("static-object", r"\bthread_local\b", OWN, (), "give it an owner that main takes down"),
    Ban("static-object", r"\bstatic\s+(?:inline\s+)?(?:const\s+)?(?:std::|[A-Z])[\w:]*" + OBJECT,
        OWN, (), "make it constexpr, or give it an owner"),
    Ban("static-object", r"^(?:(?:inline|const|static)\s+)*std::(?:string|vector|map|set|mutex|"
        r"array|unordered_map|unordered_set|function|unique_ptr|shared_ptr)\b" + OBJECT,
        OWN, (), "make it constexpr, or give it an owner"),
    Ban("float-atomic", r"\batomic(?:_ref)?\s*<\s*(?:float|double)\b", OWN, (),
        "the order of its sums is left to chance"),
    Ban("float-atomic", r"\batomic(?:Add|Sub|Exch|CAS)\w*\s*\(", ("cuda/",), (),
        "the order of its sums is left to chance"),
]
FAST_MATH = re.compile(r"-Ofast|-f?fast-math|-funsafe-math|use_fast_math|-ffp-contract=fast|"
                       r"-fassociative-math")


def source_files(root):
    """Every text file of the tree, as (path relative to the root, text)."""
    for folder, names, files in os.walk(root):
        names[:] = sorted(n for n in names if n not in SKIPPED_FOLDERS
                          and not (n.startswith("build") and folder == str(root)))
        for name in sorted(files):
            path = pathlib.Path(folder, name)
            if is_text(path) and not path.is_symlink():
                yield path.relative_to(root).as_posix(), path.read_text("utf-8", "replace")


def is_text(path):
    return path.suffix in TEXT or path.name in {"dev", "run", "Dockerfile"}


def is_code(path):
    name = pathlib.PurePosixPath(path).name
    return pathlib.PurePosixPath(path).suffix in CODE or name in {"CMakeLists.txt", "dev", "run"}


def is_cpp(path):
    return pathlib.PurePosixPath(path).suffix in CPP


def line_of(text, offset):
    return text.count("\n", 0, offset) + 1


# --- the form of files ---

def check_form(path, text):
    suffix = pathlib.PurePosixPath(path).suffix
    lines = text.split("\n")
    for number, line in enumerate(lines, 1):
        if WORKPLACE.search(line):
            yield Finding(path, number, "workplace", "a path of somebody's machine")
        if not is_code(path):
            continue
        if line != line.rstrip():
            yield Finding(path, number, "trailing-space", "white space at the end of a line")
        if "\t" in line:
            yield Finding(path, number, "tab", "use spaces")
        if len(line) > MAX_COLUMNS:
            yield Finding(path, number, "columns", f"{len(line)} of at most {MAX_COLUMNS}")
    if is_code(path) and text and not text.endswith("\n"):
        yield Finding(path, len(lines), "newline", "no newline at the end of the file")
    count = len(lines) - 1
    if count > MAX_LINES.get(suffix, count):
        yield Finding(path, count, "file-size", f"{count} lines of at most {MAX_LINES[suffix]}")
    if suffix == ".h" and not re.search(r"^#pragma once$", text, re.M):
        yield Finding(path, 1, "pragma-once", "a header without #pragma once")


# --- includes ---

def folder_of(path):
    parts = path.split("/")
    return "/".join(parts[:2]) if parts[0] == "host" else parts[0]


def check_includes(path, text, used=None):
    folder = folder_of(path)
    for match in re.finditer(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]', text, re.M):
        number = line_of(text, match.start(2))
        header = match.group(2)
        for owner, pattern in VENDOR_HEADERS.items():
            if pattern.match(header) and folder != owner:
                yield Finding(path, number, "include", f"only {owner}/ may include {header}")
        if match.group(1) == "<" or (folder == "rpc" and VENDOR_HEADERS["rpc"].match(header)):
            continue
        target = folder_of(header)
        if target not in MAY_INCLUDE and target != "tests":
            yield Finding(path, number, "include", f"{header}: include from the root")
        elif folder in MAY_INCLUDE and target != folder:
            if used is not None:
                used.add((folder, target))
            if target not in allowed_folders(folder):
                yield Finding(path, number, "include", f"{folder}/ may not include {target}/")


def allowed_folders(folder):
    names = MAY_INCLUDE[folder].split()
    return {name[1:] if name.startswith("/") else f"host/{name}" for name in names}


def check_table():
    order = list(MAY_INCLUDE)
    for folder in order:
        for target in allowed_folders(folder):
            up = target.startswith("host/") and order.index(target) < order.index(folder)
            if not up and folder != "host/cli":
                yield Finding("tests/tidy/tidy.py", 1, "include-table", f"{folder} -> {target}")


# --- C++ ---

TOKENS = re.compile(r'//(?:[^\n\\]|\\.|\\\n)*|/\*.*?\*/|R"([^(\s]*)\(.*?\)\1"|"(?:[^"\\\n]|\\.)*"|'
                    r"(?<![0-9A-Fa-f])'(?:[^'\\\n]|\\.)+'|^[ ]*#(?:[^\n\\]|\\.|\\\n)*", re.S | re.M)


def blank(text, keep_macros):
    """The code with comments and literals (and preprocessor lines) blanked out, lines kept."""
    def replacement(match):
        token = match.group()
        if token.lstrip().startswith("#"):
            return token if keep_macros else re.sub(r"[^\n]", " ", token)
        return re.sub(r"[^\n]", " ", token)
    return TOKENS.sub(replacement, text)


def check_bans(path, text):
    code = blank(text, keep_macros=True)
    for ban in BANS:
        if not path.startswith(ban.where) or (ban.but and path.startswith(ban.but)):
            continue
        for match in re.finditer(ban.pattern, code, re.M):
            called = " ".join(match.group().split()).rstrip("(")
            yield Finding(path, line_of(code, match.start()), ban.rule, f"{called}: {ban.what}")


def is_function(head):
    """Whether a brace after `head`, among declarations, opens a function's body."""
    head = re.sub(r"\b(public|private|protected)\s*:(?!:)", " ", head)
    while re.search(r"\btemplate\s*<", head):
        head = re.sub(r"\btemplate\s*<[^<>]*(?:<[^<>]*(?:<[^<>]*>[^<>]*)*>[^<>]*)*>", " ", head, 1)
        head = re.sub(r"\btemplate\s*<(?=[^>]*$)", " ", head)
    head = head.strip()
    return not (re.match(r"(inline\s+)?(namespace|class|struct|union|enum)\b|extern$", head)
                or head.endswith("=") or (head and "(" not in head))


def is_scope(head):
    return bool(re.search(r"(?:^|[\s>:])(?:(?:namespace|class|struct|union)\b|extern\s*$)", head))


def functions(text):
    """(first line, last line) of each function with a body."""
    code = blank(text, keep_macros=False)
    scopes = [True]  # whether declarations stand in each of the open braces
    head_start = 0
    begun = None
    for match in re.finditer(r"[{};]", code):
        if match.group() == "{":
            head = code[head_start:match.start()]
            function = scopes[-1] and is_function(head)
            if function:
                begun = head_start + len(head) - len(head.lstrip())
            scopes.append(scopes[-1] and not function and is_scope(head))
        elif match.group() == "}" and len(scopes) > 1:
            scopes.pop()
            if begun is not None and scopes[-1]:
                yield line_of(code, begun), line_of(code, match.start())
                begun = None
        if scopes[-1]:
            head_start = match.end()


def python_functions(text):
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node.lineno, node.end_lineno


def check_functions(path, text):
    measure = functions if is_cpp(path) else python_functions
    for first, last in measure(text):
        if last - first + 1 > MAX_FUNCTION_LINES:
            yield Finding(path, first, "function-size",
                          f"{last - first + 1} lines of at most {MAX_FUNCTION_LINES}")


NAMED_TYPE = re.compile(r"^(?:template <.*> )?(?:struct|class|enum class|union) (\w+)(?: final)?"
                        r"(?: : [^;{]*)? \{")


def public_types(path, text):
    """(namespace::name, line) of each type that other files could see or clash with."""
    namespace, hidden = "", False
    for number, line in enumerate(blank(text, keep_macros=False).split("\n"), 1):
        if opened := re.match(r"namespace(?: ([\w:]+))? \{", line):
            namespace, hidden = opened.group(1) or namespace, not opened.group(1)
        elif hidden and line.startswith("}") and "namespace" in text.split("\n")[number - 1]:
            hidden = False
        elif not hidden and (named := NAMED_TYPE.match(line)):
            yield f"{namespace}::{named.group(1)}", number


class OneDefinition:
    """Two types of one name in one namespace: linked together, one runs the other's code."""

    def __init__(self):
        self.places = {}

    def check(self, path, text):
        for name, number in public_types(path, text):
            first = self.places.setdefault(name, path)
            # A type of each instruction set is in a namespace that a macro names.
            if first != path and "LOCKSTEP_ISA" not in name:
                yield Finding(path, number, "one-definition", f"{name} is also in {first}")


# --- all of it ---

def check_file(path, text, used=None):
    yield from check_form(path, text)
    if is_cpp(path):
        yield from check_includes(path, text, used)
        yield from check_bans(path, text)
    if is_cpp(path) or path.endswith(".py"):
        yield from check_functions(path, text)
    if not is_cpp(path) and not path.startswith("tests/") and FAST_MATH.search(text):
        line = line_of(text, FAST_MATH.search(text).start())
        yield Finding(path, line, "fast-math", "the compiler may change bits")


def main():
    arguments = [a for a in sys.argv[1:] if not a.startswith("--")]
    root = pathlib.Path(arguments[0] if arguments else pathlib.Path(__file__).parents[2])
    used = set()
    types = OneDefinition()
    findings = list(check_table())
    count = 0
    for path, text in source_files(root):
        count += 1
        findings += check_file(path, text, used)
        if is_cpp(path):
            findings += types.check(path, text)
    for finding in findings:
        print("{}:{}: {}: {}".format(*finding))
    if "--unused" in sys.argv:
        for folder in MAY_INCLUDE:
            for target in sorted(allowed_folders(folder)):
                if (folder, target) not in used:
                    print(f"unused: {folder} -> {target}")
    print(f"tidy: {count} files, {len(findings)} findings")
    sys.exit(1 if findings or count == 0 else 0)


if __name__ == "__main__":
    main()
