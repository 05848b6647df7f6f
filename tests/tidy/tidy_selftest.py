"""Plants what tidy.py has to report, one thing a file, and what it must let pass."""

import pathlib
import subprocess
import sys
import tempfile
import unittest

import tidy

WORKPLACE = "/wo" "rk/"
LONG_FUNCTION = "int f() {\n" + "  f();\n" * 69 + "}\n"
LONG_METHOD = ("namespace a {\ntemplate <class T, class U = B<T>>\nclass C : public D<T> {\n"
               " public:\n  explicit C(int x) : x_{x}, y_(x) {\n"
               + "    if (x) { f(); }\n" * 70 + "  }\n};\n}\n")

# (rule, path, contents)
BAD = [
    ("exit", "host/data/a.cc", "void f() { exit(1); }\n"),
    ("exit", "rpc/a.cc", "void f() { std::abort(); }\n"),
    ("exit", "tests/data/a.cc", "void f() { ::quick_exit(1); }\n"),
    ("exit", "host/cluster/a.cc", "void f() { _exit(1); }\n"),
    ("banned-call", "host/core/a.cc", "int f() { return rand(); }\n"),
    ("banned-call", "host/core/a.cc", "void f() { std::srand(1); }\n"),
    ("banned-call", "host/core/a.cc", "void f(char* a) { strcpy(a, a); }\n"),
    ("banned-call", "host/core/a.cc", "void f(char* a) { sprintf(a, a); }\n"),
    ("banned-call", "tests/core/a.cc", "void f() { std::system(0); }\n"),
    ("detach", "host/runtime/a.cc", "void f(std::thread& t) { t.detach(); }\n"),
    ("detach", "host/runtime/a.cc", "void f(std::thread* t) { t->detach(); }\n"),
    ("using-std", "host/core/a.h", "#pragma once\nusing namespace std;\n"),
    ("assert", "host/core/a.cc", "void f(int a) { assert(a); }\n"),
    ("assert", "cuda/a.cu", "void f(int a) {\n  // comment\n  assert(a);\n}\n"),
    ("libm", "host/optim/a.cc", "double f(double a) { return std::pow(a, a); }\n"),
    ("libm", "host/cpu/a.cc", "float f(float a) { return expf(a); }\n"),
    ("static-object", "host/core/a.cc", "int f() {\n  static std::map<int, int> m;\n}\n"),
    ("static-object", "host/core/a.cc", "static const std::string kName = \"a\";\n"),
    ("static-object", "host/core/a.cc", "const std::vector<int> kNumbers{1};\n"),
    ("static-object", "host/core/a.cc", "void f() { static Registry registry; }\n"),
    ("static-object", "rpc/a.cc", "thread_local int a = 0;\n"),
    ("float-atomic", "host/reduce/a.cc", "void f(std::atomic<float>& a) { a += 1; }\n"),
    ("float-atomic", "cuda/a.cu", "__global__ void f(float* a) { atomicAdd(a, 1.0f); }\n"),
    ("include", "host/core/a.cc", '#include "host/tensor/shape.h"\n'),
    ("include", "host/graph/a.cc", '#include "host/nn/layer.h"\n'),
    ("include", "host/train/a.cc", '#include "rpc/network.h"\n'),
    ("include", "rpc/a.cc", '#include "cuda/cuda_device.h"\n'),
    ("include", "models/a.cc", '#include "rpc/network.h"\n'),
    ("include", "host/core/a.cc", '#include "result.h"\n'),
    ("include", "host/core/a.cc", "#include <thrift/Thrift.h>\n"),
    ("include", "host/cli/a.cc", '#include "wire/Coordinator.h"\n'),
    ("include", "tests/core/a.cc", "#include <cuda_runtime.h>\n"),
    ("function-size", "host/core/a.cc", LONG_FUNCTION),
    ("function-size", "cuda/a.cu", "__global__ " + LONG_FUNCTION),
    ("function-size", "host/core/a.h", "#pragma once\n" + LONG_METHOD),
    ("function-size", "tests/core/a.cc", "TEST(A, B) {\n" + "  f(\"}\");\n" * 69 + "}\n"),
    ("function-size", "tests/a.py", "def f():\n" + "    f()\n" * 70),
    ("file-size", "host/core/a.cc", "int a;\n" * 501),
    ("file-size", "cuda/a.cu", "int a;\n" * 801),
    ("columns", "host/core/a.cc", "//" + "é" * 99 + "\n"),
    ("trailing-space", "host/core/a.cc", "int a; \n"),
    ("trailing-space", "dev", "a\r\n"),
    ("tab", "tests/CMakeLists.txt", "\tset(a)\n"),
    ("newline", "host/core/a.cc", "int a;"),
    ("pragma-once", "host/core/a.h", "int a;\n"),
    ("fast-math", "CMakePresets.json", '{"flags": "-O2 -ffast-math"}\n'),
    ("fast-math", "cuda/CMakeLists.txt", "add_compile_options(--use_fast_math)\n"),
    ("workplace", "README.md", f"see {WORKPLACE}notes\n"),
]

# (path, contents)
GOOD = [
    ("host/core/check.h", "#pragma once\ninline void f() { std::abort(); }\n"),
    ("host/cli/main.cc", '#include "cuda/cuda_device.h"\nint main() { exit(1); }\n'),
    ("host/runtime/a.cc", "void f() { _exit(1); }\n"),
    ("tests/runtime/a.cc", '#include "rpc/network.h"\nvoid f() { _exit(1); }\n'),
    ("rpc/a.cc", '#include <thrift/Thrift.h>\n#include "host/runtime/stream.h"\n'),
    ("cuda/a.cc", "#include <cuda_runtime.h>\n"),
    ("host/core/a.cc", "// exit(1), rand() and /* assert(a)\nconst char* a = \"exit(1); // \";\n"
                       "static_assert(1);\nvoid g() { stream.exit(); }\nint n = 1'000'000;\n"),
    ("host/core/a.cc", "double f(double a) { return std::exp(a); }\n"),
    ("host/optim/a.cc", "double f(double a) { return std::sqrt(a) + exact_pow(a, a); }\n"),
    ("host/core/a.cc", "static std::string f(int a);\n"
                       "static constexpr std::array<int, 1> k = {1};\n"
                       "std::vector<int> g(int a = 0) { return {a}; }\n"
                       "static Result<int> h(const std::vector<int>& a = {});\n"),
    ("host/core/a.cc", "int f() {\n" + "  f();\n" * 68 + "}\n"),
    ("host/core/a.cc",
     "namespace a {\nstruct B {\n" + "  int b() { return 1; }\n" * 80 + "};\n}\n"),
    ("host/core/a.cc", "constexpr int k[] = {\n" + "    1,\n" * 80 + "};\n"),
    ("host/core/a.cc", "//" + "é" * 98 + "\n"),
    ("README.md", "a framework/ for ${x}/work/ and x/work/\n"),
]


class Planted(unittest.TestCase):
    def test_each_planted_defect_is_reported(self):
        for rule, path, contents in BAD:
            with self.subTest(rule=rule, path=path, contents=contents[:60]):
                found = {finding.rule for finding in tidy.check_file(path, contents)}
                self.assertEqual(found, {rule})

    def test_good_code_passes(self):
        for path, contents in GOOD:
            with self.subTest(path=path, contents=contents[:60]):
                self.assertEqual(list(tidy.check_file(path, contents)), [])

    def test_two_types_of_one_name_are_reported(self):
        types = tidy.OneDefinition()
        text = "namespace a {\nnamespace {\nstruct S {\n};\n}  // namespace\nstruct K {\n};\n}\n"
        self.assertEqual(list(types.check("host/nn/a.h", text)), [])
        found = list(types.check("host/optim/b.h", text.replace("struct K", "class K final : S")))
        self.assertEqual([(f.line, f.rule) for f in found], [(6, "one-definition")])
        self.assertEqual(list(types.check("host/optim/c.h", text.replace("e a", "e b"))), [])

    def test_line_numbers(self):
        text = "// a\n/* b\n c */ int d;\n\nvoid f() {\n  abort();\n}\n"
        self.assertEqual([f.line for f in tidy.check_file("host/core/a.cc", text)], [6])
        self.assertEqual(list(tidy.functions(text)), [(5, 7)])

    def test_include_table_points_up(self):
        self.assertEqual(list(tidy.check_table()), [])
        for folder, wrong in [("host/core", "tensor"), ("host/data", "/rpc"), ("rpc", "/cuda")]:
            with self.subTest(folder=folder):
                kept = tidy.MAY_INCLUDE[folder]
                tidy.MAY_INCLUDE[folder] = wrong
                self.assertNotEqual(list(tidy.check_table()), [])
                tidy.MAY_INCLUDE[folder] = kept

    def test_the_exit_status_says_so(self):
        with tempfile.TemporaryDirectory() as root:
            self.assertEqual(self.run_tidy(root), 1)  # no files: nothing was checked
            source = pathlib.Path(root, "host", "core", "a.cc")
            source.parent.mkdir(parents=True)
            source.write_text("int a;\n")
            self.assertEqual(self.run_tidy(root), 0)
            source.write_text("void f() { abort(); }\n")
            self.assertEqual(self.run_tidy(root), 1)

    def run_tidy(self, root):
        command = [sys.executable, "-B", tidy.__file__, root]
        return subprocess.run(command, stdout=subprocess.DEVNULL).returncode


if __name__ == "__main__":
    unittest.main()
