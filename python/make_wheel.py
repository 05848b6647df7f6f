"""A wheel of the package with the binary in it, and the libraries that the binary needs.

    python3 python/make_wheel.py --lockstep build/release/lockstep --output build/wheel

The libraries of glibc are the system's; the wheel says which version of it the others ask for. Its
tag is linux_x86_64: manylinux would promise an older glibc than Debian 12 has.
"""
import argparse
import base64
import hashlib
import pathlib
import platform
import re
import subprocess
import tomllib
import zipfile

HERE = pathlib.Path(__file__).resolve().parent
GLIBC = re.compile(r"(ld-linux.*|lib(c|m|dl|rt|pthread|resolv|util|nsl|anl))\.so\.\d+$")
METADATA = """Metadata-Version: 2.1
Name: {name}
Version: {version}
Summary: {description}
Requires-Python: {requires-python}
{requires}Description-Content-Type: text/markdown

This wheel is for Linux on {machine} with glibc {glibc} or later.

{readme}"""
WHEEL = """Wheel-Version: 1.0
Generator: lockstep
Root-Is-Purelib: false
Tag: py3-none-{system}
"""


def libraries(binary):
    """What it is linked with, but glibc."""
    lines = subprocess.run(["ldd", binary], capture_output=True, text=True, check=True).stdout
    paths = [pathlib.Path(path) for path in re.findall(r"=> (/\S+)", lines)]
    if "not found" in lines:
        raise SystemExit(f"make_wheel: a library of {binary} is missing:\n{lines}")
    return [path for path in paths if not GLIBC.match(path.name)]


def newest_glibc(files):
    """The newest version whose symbols the files ask for."""
    versions = {tuple(map(int, match.split(b".")))
                for path in files
                for match in re.findall(rb"GLIBC_(\d+\.\d+)", path.read_bytes())}
    return ".".join(map(str, max(versions)))


class Wheel:
    """The archive; its list of contents is written last."""

    def __init__(self, path, info):
        self.archive = zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED)
        self.info = info
        self.record = []

    def add(self, name, content, executable=False):
        member = zipfile.ZipInfo(name, (2020, 1, 1, 0, 0, 0))
        member.external_attr = (0o100755 if executable else 0o100644) << 16
        self.archive.writestr(member, content, zipfile.ZIP_DEFLATED)
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        self.record.append(f"{name},sha256={digest},{len(content)}")

    def finish(self):
        self.record.append(f"{self.info}/RECORD,,")
        self.archive.writestr(f"{self.info}/RECORD", "\n".join(self.record) + "\n")
        self.archive.close()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--lockstep", required=True, type=pathlib.Path)
    parser.add_argument("--output", required=True, type=pathlib.Path)
    arguments = parser.parse_args()
    project = tomllib.loads((HERE / "pyproject.toml").read_text())["project"]
    system = f"linux_{platform.machine()}"
    stem = f"{project['name']}-{project['version']}"
    arguments.output.mkdir(parents=True, exist_ok=True)
    path = arguments.output / f"{stem}-py3-none-{system}.whl"
    stripped = arguments.output / "lockstep"
    subprocess.run(["strip", "-o", stripped, arguments.lockstep], check=True)
    needed = libraries(arguments.lockstep)
    glibc = newest_glibc([stripped, *needed])
    wheel = Wheel(path, f"{stem}.dist-info")
    for file in sorted((HERE / "lockstep").glob("*")):
        if file.suffix in {".py", ".typed"}:
            wheel.add(f"lockstep/{file.name}", file.read_bytes())
    wheel.add("lockstep/bin/lockstep", stripped.read_bytes(), executable=True)
    for file in needed:
        wheel.add(f"lockstep/bin/lib/{file.name}", file.read_bytes())
    requires = "".join(f"Requires-Dist: {one}\n" for one in project["dependencies"])
    wheel.add(f"{wheel.info}/METADATA", METADATA.format_map(
        {**project, "requires": requires, "machine": platform.machine(), "glibc": glibc,
         "readme": (HERE / "README.md").read_text()}).encode())
    wheel.add(f"{wheel.info}/WHEEL", WHEEL.format(system=system).encode())
    wheel.finish()
    stripped.unlink()
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB, for Linux on {platform.machine()} with "
          f"glibc {glibc} or later; {len(needed)} libraries are in it")


if __name__ == "__main__":
    main()
