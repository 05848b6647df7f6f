"""Small random mutations of the cluster's machines: how many do simulator and unit tests notice?

    python3 tests/mutate/mutate.py [--count 100] [--seed S] [--work build/mutate]

Each mutation changes one place of cluster/, reduce/ or checkpoint/: an operator, a constant, a
dropped statement. It is built in a copy of the sources; what does not compile is drawn again.
Prints each mutation and what noticed it, then the share that was noticed. Exit status 1 where the
share is below --least.
"""

import argparse
import pathlib
import random
import re
import shutil
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
FOLDERS = ("host/cluster", "host/reduce", "host/checkpoint")
UNIT = ("lockstep_test_reduce", "lockstep_test_cluster", "lockstep_test_checkpoint")
SEEDS = "1:201"
BUILD_TIMEOUT_S = 600
TEST_TIMEOUT_S = 120  # of the sources as they are; then so many times what they took
TIMES_AS_LONG = 6
SWAPS = [(" < ", " <= "), (" <= ", " < "), (" > ", " >= "), (" >= ", " > "), (" == ", " != "),
         (" != ", " == "), (" && ", " || "), (" || ", " && "), (" + ", " - "), (" - ", " + "),
         ("true", "false"), ("false", "true")]
NUMBER = re.compile(r"(?<![\w.\"'])(\d+)(?![\w.\"'])")
STATEMENT = re.compile(r"^\s+(?!return|break|continue|case|using|auto|const|[A-Z]\w*[ <])"
                       r"[\w:>.\-\[\]()]+.*;$")


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--least", type=float, default=85, help="percent that must be noticed")
    parser.add_argument("--work", type=pathlib.Path, default=ROOT / "build" / "mutate")
    return parser.parse_args()


def code_lines(text):
    """Numbers of lines that are code, not comments, includes or messages alone."""
    for number, line in enumerate(text.splitlines()):
        bare = line.strip()
        if bare and not bare.startswith(("//", "#", '"')) and "LOCKSTEP_CHECK" not in bare:
            yield number, line


def mutations_of(path):
    """(line number, what it becomes) for every place of a file."""
    found = []
    for number, line in code_lines(path.read_text(encoding="utf-8")):
        code = line.split("//")[0]
        plain = re.sub(r'"[^"]*"', lambda match: " " * len(match.group()), code)
        for old, new in SWAPS:
            for match in re.finditer(re.escape(old), plain):
                found.append((number, line[:match.start()] + new + line[match.end():]))
        for match in NUMBER.finditer(plain):
            changed = str(int(match.group()) + 1)
            found.append((number, line[:match.start()] + changed + line[match.end():]))
        if STATEMENT.match(plain) and plain.count("(") == plain.count(")") and "=" not in plain[:4]:
            found.append((number, ""))
    return found


class Mutator:
    def __init__(self, options):
        self.source = options.work / "source"
        self.build_folder = options.work / "build"
        self.timeouts = {}
        shutil.rmtree(self.source, ignore_errors=True)
        tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, text=True,
                                 stdout=subprocess.PIPE).stdout.split("\n")
        for name in filter(None, tracked):
            target = self.source / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target)
        self.command("cmake", "-S", self.source, "-B", self.build_folder, "-G", "Ninja",
                     "-DCMAKE_BUILD_TYPE=Release", "-DCMAKE_CXX_FLAGS_RELEASE=-O2",
                     "-DLOCKSTEP_CUDA=OFF", timeout=BUILD_TIMEOUT_S)

    @staticmethod
    def command(*words, timeout):
        """Whether it ended well, in time."""
        try:
            done = subprocess.run([str(word) for word in words], stdout=subprocess.DEVNULL,
                                  stderr=subprocess.DEVNULL, timeout=timeout, check=False)
        except subprocess.TimeoutExpired:
            return False
        return done.returncode == 0

    def build(self):
        return self.command("ninja", "-C", self.build_folder, *UNIT, "lockstep_sim",
                            timeout=BUILD_TIMEOUT_S)

    def noticed_by(self):
        """The first of the tests that fails, or hangs, or None."""
        for name in (*UNIT, "lockstep_sim"):
            flags = ["--seeds", SEEDS] if name == "lockstep_sim" else ["--gtest_brief=1"]
            begin = time.monotonic()
            if not self.command(self.build_folder / "tests" / name, *flags,
                                timeout=self.timeouts.get(name, TEST_TIMEOUT_S)):
                return name
            self.timeouts.setdefault(name, 5 + TIMES_AS_LONG * (time.monotonic() - begin))
        return None

    def try_mutation(self, path, number, changed):
        """What noticed it ("" for nothing), or None where it does not compile."""
        target = self.source / path.relative_to(ROOT)
        lines = path.read_text(encoding="utf-8").splitlines()
        lines[number] = changed
        target.write_text("\n".join(lines) + "\n", encoding="utf-8")
        try:
            return (self.noticed_by() or "") if self.build() else None
        finally:
            shutil.copy(path, target)


def main():
    options = parse()
    seed = options.seed if options.seed is not None else time.time_ns() % 1_000_000_007
    print(f"seed {seed}", flush=True)
    rng = random.Random(seed)
    files = [path for folder in FOLDERS for path in sorted((ROOT / folder).glob("*.cc"))]
    places = [(path, *mutation) for path in files for mutation in mutations_of(path)]
    mutator = Mutator(options)
    if not mutator.build() or mutator.noticed_by() is not None:
        sys.exit("the sources fail as they are: nothing was mutated")
    survivors, tried = [], 0
    for path, number, changed in rng.sample(places, len(places)):
        if tried == options.count:
            break
        noticed = mutator.try_mutation(path, number, changed)
        if noticed is None:
            continue
        tried += 1
        where = f"{path.relative_to(ROOT)}:{number + 1}"
        what = changed.strip() or f"dropped: {path.read_text().splitlines()[number].strip()}"
        print(f"{tried:>4}  {noticed or 'SURVIVED':<26} {where}: {what}", flush=True)
        if not noticed:
            survivors.append(where)
    share = 100 * (tried - len(survivors)) / max(tried, 1)
    print(f"{tried - len(survivors)} of {tried} noticed: {share:.0f} %")
    return 0 if share >= options.least else 1


if __name__ == "__main__":
    sys.exit(main())
