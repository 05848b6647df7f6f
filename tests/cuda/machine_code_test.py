"""What the compiler made of the kernels: for which GPUs, and nothing in them that leaves bits to
chance or to the GPU's tables.

    machine_code_test.py ARCHIVE NVCC TOOLS GPUS

TOOLS: a folder below which cuobjdump lies. GPUS: as CMake names them, "75-virtual,90-real".

PTX shows what was asked of the GPU, SASS what the assembler made of it. An IEEE division or square
root begins with MUFU.RCP or MUFU.RSQ and corrects it: these two are no approximations of ours.
"""

import pathlib
import re
import subprocess
import sys
import tempfile
import unittest

PTX_BANS = {
    "an atomic operation": r"\b(?:atom|red)\.[\w.:]+",
    "an approximate function": r"\b[\w.]+\.approx[\w.]*",
    "denormals flushed to zero": r"\b[\w.]+\.ftz\b[\w.]*",
    "local memory": r"\.local\b",
}
SASS_BANS = {
    "an atomic operation": r"\b(?:ATOM|ATOMG|ATOMS|RED|REDG|REDAS)\b[.\w]*",
    "an approximate function": r"\bMUFU\.(?!RCP\b|RSQ\b|RCP64H\b|RSQ64H\b)\w+",
    "local memory": r"\b(?:LDL|STL)\b[.\w]*",
}
# Every ban has to be seen at work.
BAD_SOURCE = """
__global__ void bad(float* out, const int* at) {
  float kept[64];
  for (int i = 0; i < 64; ++i) kept[i] = 0;
  for (int i = 0; i < 64; ++i) kept[at[i]] += out[i];
  atomicAdd(out, __expf(out[1]) + kept[at[0]]);
}
"""


class MachineCode:
    """The PTX and SASS in an object or archive."""

    def __init__(self, path):
        self.path = path
        self.ptx = self.dump("-ptx")
        self.sass = self.dump("-sass")

    def dump(self, *arguments):
        tools = str(CUOBJDUMP.parent)  # cuobjdump looks for nvdisasm on the path
        done = subprocess.run([str(CUOBJDUMP), *arguments, str(self.path)], text=True, timeout=1500,
                              stdout=subprocess.PIPE, env={"PATH": f"{tools}:/usr/bin:/bin"},
                              check=True)
        return done.stdout

    def findings(self):
        for form, bans in (("PTX", PTX_BANS), ("SASS", SASS_BANS)):
            text = self.ptx if form == "PTX" else self.sass
            for what, pattern in bans.items():
                found = sorted(set(re.findall(pattern, text)))
                if found:
                    yield form, what, found


class Kernels(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        if CUOBJDUMP is None:
            raise unittest.SkipTest("no cuobjdump: PyPI could not be reached when it was wanted")
        cls.code = MachineCode(ARCHIVE)

    def test_they_are_built_for_the_gpus_that_were_asked_for(self):
        images = set(re.findall(r"\bsm_\d+\w?", self.code.dump("--list-elf")))
        virtual = set(re.findall(r"^\.target (sm_\d+\w?)", self.code.ptx, re.M))
        print("machine code for", *sorted(images), "and PTX for", *sorted(virtual))
        wanted = [gpu.partition("-")[::2] for gpu in GPUS]  # without a kind: both
        self.assertEqual(images, {f"sm_{number}" for number, kind in wanted if kind != "virtual"})
        self.assertEqual(virtual, {f"sm_{number}" for number, kind in wanted if kind != "real"})

    def test_nothing_is_left_to_chance(self):
        self.assertGreater(len(re.findall(r"\.entry ", self.code.ptx)), 50)
        self.assertGreater(len(re.findall(r"\bFFMA\b", self.code.sass)), 1000)
        self.assertEqual(list(self.code.findings()), [])

    def test_a_bad_kernel_is_found(self):
        with tempfile.TemporaryDirectory() as folder:
            source = pathlib.Path(folder, "bad.cu")
            source.write_text(BAD_SOURCE)
            built = source.with_suffix(".o")
            subprocess.run([NVCC, "-c", "-ftz=true", "-gencode=arch=compute_90,code=[sm_90,"
                            "compute_90]", "-o", str(built), str(source)], check=True, timeout=120)
            found = {(form, what) for form, what, _ in MachineCode(built).findings()}
        wanted = {("PTX", what) for what in PTX_BANS} | {("SASS", what) for what in SASS_BANS}
        self.assertEqual(found, wanted)


if __name__ == "__main__":
    ARCHIVE, NVCC, TOOLS = sys.argv[1:4]
    GPUS = sys.argv[4].split(",")
    CUOBJDUMP = next(pathlib.Path(TOOLS).rglob("bin/cuobjdump"), None)
    unittest.main(argv=sys.argv[:1], verbosity=2)
