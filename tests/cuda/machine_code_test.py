"""What the compiler made of the kernels: for which GPUs, and nothing in them that leaves bits to
chance or to the GPU's tables.

    machine_code_test.py ARCHIVE NVCC TOOLS GPUS

TOOLS: a folder below which cuobjdump lies. GPUS: as CMake names them, "75-virtual,90-real".
LOCKSTEP_ASSEMBLE: numbers of more GPUs, "75,80,120": for each the archive's PTX is made into
machine code, as the driver does there, and searched too.

PTX shows what was asked of the GPU, SASS what the assembler made of it. An IEEE division or square
root begins with MUFU.RCP or MUFU.RSQ and corrects it: these two are no approximations of ours.
SASS is hundreds of megabytes of text: grep picks the words that matter as it comes.
"""

import collections
import concurrent.futures
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time
import unittest

PTX_BANS = {
    "an atomic operation": r"^(?:atom|red)\.",
    "an approximate function": r"\.approx\b",
    "denormals flushed to zero": r"\.ftz\b",
    "a sum or product that may be contracted": r"^(?:add|sub|mul|mad)\.(?:ftz\.)?f(?:32|64)$",
    "local memory": r"^\.local$",
}
SASS_BANS = {
    "an atomic operation": r"^(?:ATOM|ATOMG|ATOMS|RED|REDG|REDAS)\b",
    "an approximate function": r"^MUFU\.(?!RCP\b|RSQ\b|RCP64H\b|RSQ64H\b)",
    "local memory": r"^(?:LDL|STL)\b",
}
# What is picked: the words that a ban may match, and those that are counted.
PTX_WORDS = (r"\b(atom|red)\.[a-z0-9_.:]+|\b[a-z0-9_.]+\.(approx|ftz)[a-z0-9_.]*|"
             r"\b(add|sub|mul|mad)\.[a-z0-9_.]+|\.local\b|\.entry\b|^\.target sm_[0-9]+[a-z]?")
SASS_WORDS = (r"\b(ATOM|ATOMG|ATOMS|RED|REDG|REDAS|MUFU|LDL|STL|FFMA)\b[.A-Z0-9_a-z]*|"
              r"^arch = sm_[0-9]+[a-z]?")
# How the project builds: a driver assembles the PTX of the same options.
PTXAS = ["--fmad", "false", "--warn-on-spills", "--warn-on-local-memory-usage",
         "--warning-as-error"]
# Every ban has to be seen at work.
BAD_SOURCE = """
__global__ void bad(float* out, const int* at) {
  float kept[64];
  for (int i = 0; i < 64; ++i) kept[i] = 0;
  for (int i = 0; i < 64; ++i) kept[at[i]] += out[i];
  atomicAdd(out, __expf(out[1]) + kept[at[0]]);
}
"""


def environment():
    return {"PATH": f"{CUOBJDUMP.parent}:/usr/bin:/bin", "LC_ALL": "C"}  # cuobjdump runs nvdisasm


def run(*command, **options):
    return subprocess.run([str(part) for part in command], env=environment(), text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options)


def words(path, form, pattern):
    """How often each word that matches stands in the dump."""
    counts = collections.Counter()
    with subprocess.Popen([str(CUOBJDUMP), form, str(path)], env=environment(),
                          stdout=subprocess.PIPE) as dump:
        with subprocess.Popen(["grep", "-oE", pattern], env=environment(), stdin=dump.stdout,
                              stdout=subprocess.PIPE, text=True) as grep:
            dump.stdout.close()
            for line in grep.stdout:
                counts[line.strip()] += 1
    if dump.returncode != 0:
        raise RuntimeError(f"cuobjdump {form} {path} ended with {dump.returncode}")
    return counts


def findings(counts, form, bans):
    for what, pattern in bans.items():
        found = sorted(word for word in counts if re.search(pattern, word))
        if found:
            yield form, what, found


class MachineCode:
    """The PTX and SASS in an object or archive."""

    def __init__(self, path):
        self.path = path
        self.ptx = words(path, "-ptx", PTX_WORDS)
        self.sass = words(path, "-sass", SASS_WORDS)

    def findings(self):
        yield from findings(self.ptx, "PTX", PTX_BANS)
        yield from findings(self.sass, "SASS", SASS_BANS)


def fused(sass):
    return sum(count for word, count in sass.items() if word.startswith("FFMA"))


def assemble(ptx, gpu):
    """What ptxas says where it fails, what it made, and how long both steps took."""
    begin = time.monotonic()
    cubin = ptx.with_name(f"{ptx.stem}.made-for-{gpu}.cubin")
    done = run(pathlib.Path(NVCC).parent / "ptxas", f"-arch=sm_{gpu}", *PTXAS, "-o", cubin, ptx)
    sass = words(cubin, "-sass", SASS_WORDS) if done.returncode == 0 else {}
    return done.stdout if done.returncode else "", sass, time.monotonic() - begin


class Kernels(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        if CUOBJDUMP is None:
            raise unittest.SkipTest("no cuobjdump: PyPI could not be reached when it was wanted")
        cls.code = MachineCode(ARCHIVE)

    def test_they_are_built_for_the_gpus_that_were_asked_for(self):
        images = set(re.findall(r"\bsm_\d+\w?", run(CUOBJDUMP, "--list-elf", ARCHIVE).stdout))
        virtual = {word.split()[1] for word in self.code.ptx if word.startswith(".target")}
        print("machine code for", *sorted(images), "and PTX for", *sorted(virtual))
        wanted = [gpu.partition("-")[::2] for gpu in GPUS]  # without a kind: both
        self.assertEqual(images, {f"sm_{number}" for number, kind in wanted if kind != "virtual"})
        self.assertEqual(virtual, {f"sm_{number}" for number, kind in wanted if kind != "real"})

    def test_nothing_is_left_to_chance(self):
        self.assertGreater(self.code.ptx[".entry"], 50)
        self.assertGreater(fused(self.code.sass), 1000)
        self.assertEqual(list(self.code.findings()), [])

    def test_what_a_driver_makes_of_the_ptx(self):
        if not ASSEMBLED:
            self.skipTest("LOCKSTEP_ASSEMBLE names no GPUs: ./dev gpu-code does")
        with tempfile.TemporaryDirectory() as name:
            folder = pathlib.Path(name)
            self.assertEqual(run(CUOBJDUMP, "-xptx", "all", pathlib.Path(ARCHIVE).resolve(),
                                 cwd=folder).returncode, 0)
            sources = sorted(folder.glob("*.ptx"))
            self.assertGreater(len(sources), 5)
            with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
                jobs = {gpu: [pool.submit(assemble, ptx, gpu) for ptx in sources]
                        for gpu in ASSEMBLED}
            for gpu, of_gpu in jobs.items():
                said, sass, seconds = zip(*(job.result() for job in of_gpu))
                total = sum((collections.Counter(counts) for counts in sass), start=
                            collections.Counter())
                print(f"sm_{gpu}: {fused(total)} fused operations, {sum(seconds):.0f} s")
                with self.subTest(gpu=gpu):
                    self.assertEqual([text for text in said if text], [])
                    self.assertGreater(fused(total), 1000)
                    self.assertEqual(list(findings(total, "SASS", SASS_BANS)), [])

    def test_a_bad_kernel_is_found(self):
        with tempfile.TemporaryDirectory() as folder:
            source = pathlib.Path(folder, "bad.cu")
            source.write_text(BAD_SOURCE)
            built = source.with_suffix(".o")
            subprocess.run([NVCC, "-c", "-ftz=true", "-gencode=arch=compute_90,code=[sm_90,"
                            "compute_90]", "-o", str(built), str(source)], check=True, timeout=120)
            found = {(form, what) for form, what, _ in MachineCode(built).findings()}
            run(CUOBJDUMP, "-xptx", "all", built, cwd=folder, check=True)
            said, _, _ = assemble(next(pathlib.Path(folder).glob("*.ptx")), "90")
        wanted = {("PTX", what) for what in PTX_BANS} | {("SASS", what) for what in SASS_BANS}
        self.assertEqual(found, wanted)
        self.assertIn("local memory", said.lower())


if __name__ == "__main__":
    ARCHIVE, NVCC, TOOLS = sys.argv[1:4]
    GPUS = sys.argv[4].split(",")
    ASSEMBLED = [gpu for gpu in os.environ.get("LOCKSTEP_ASSEMBLE", "").split(",") if gpu]
    CUOBJDUMP = next(pathlib.Path(TOOLS).rglob("bin/cuobjdump"), None)
    unittest.main(argv=sys.argv[:1], verbosity=2)
