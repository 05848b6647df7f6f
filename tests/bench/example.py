"""README.md's Python example as it stands, in a new virtual environment, beside Keras' own fit.

    python3 tests/bench/example.py --wheel build/wheel/lockstep-….whl

The environment holds the wheel, and Keras with JAX from PyPI. The other side is the example with
the one line changed back: the line that stands there as a comment in place of lockstep.fit. Both
begin with the same weights, others in each round. Fails where the mean accuracies are more than
half a point apart. The times are medians of whole calls, after the imports: Keras' with tracing,
ours with processes and files.
"""
import argparse
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import venv

ROOT = pathlib.Path(__file__).resolve().parents[2]
HALF_A_POINT = 0.005
# Runs a script as it stands, and says how long its call of fit took.
TIMED = """
import sys, time, keras, lockstep

def timed(fit):
    def call(*arguments, **options):
        begin = time.monotonic()
        try:
            return fit(*arguments, **options)
        finally:
            print("seconds:", time.monotonic() - begin)
    return call

keras.utils.set_random_seed(int(sys.argv[2]))
keras.Model.fit, lockstep.fit = timed(keras.Model.fit), timed(lockstep.fit)
exec(compile(open(sys.argv[1]).read(), sys.argv[1], "exec"))
"""


def example():
    """The only Python in README.md."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.S)
    if len(blocks) != 1:
        sys.exit(f"README.md has {len(blocks)} Python examples: tell which one is to run")
    return blocks[0]


def changed_back(text):
    """The example with plain Keras: the comment becomes the line, and our line goes."""
    text, comments = re.subn(r"^# (model\.fit\()", r"\1", text, flags=re.M)
    text, calls = re.subn(r"^lockstep\.fit\(.*\n", "", text, flags=re.M)
    if (comments, calls) != (1, 1):
        sys.exit("README.md: the example must call lockstep.fit in one line, with model.fit as a "
                 "comment")
    return text


def new_environment(folder, wheel):
    """A virtual environment with what a user installs; its Python."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    pins = (ROOT / "tests" / "interop" / "requirements.txt").read_text("utf-8").split()
    packages = [pin for pin in pins if re.match(r"(keras|jax|jaxlib|numpy)==", pin)]
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
                    wheel, *packages], check=True)
    return python


def run(python, script, seed):
    """(accuracy on the test set, seconds of fit)."""
    environment = {key: value for key, value in os.environ.items()
                   if key != "PYTHONPATH" and not key.startswith("LOCKSTEP_")}
    done = subprocess.run([python, "-c", TIMED, script, str(seed)], cwd=script.parent, text=True,
                          stdout=subprocess.PIPE, env={**environment, "KERAS_BACKEND": "jax",
                                                       "JAX_PLATFORMS": "cpu"})
    if done.returncode != 0:
        sys.exit(f"{script.name}: exit status {done.returncode}\n{done.stdout[-2000:]}")
    return (float(done.stdout.split("accuracy: ")[-1].split()[0]),
            float(done.stdout.split("seconds: ")[-1].split()[0]))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--wheel", required=True, type=pathlib.Path)
    parser.add_argument("--rounds", type=int, default=3, help="of both in turn")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="lockstep-example-") as name:
        folder = pathlib.Path(name)
        python = new_environment(folder / "venv", arguments.wheel.resolve())
        scripts = {"keras": changed_back(example()), "lockstep": example()}
        runs = {who: [] for who in scripts}
        for who, text in scripts.items():
            (folder / f"{who}_example.py").write_text(text, "utf-8")
        for seed in range(arguments.rounds):
            for who, done in runs.items():
                done.append(run(python, folder / f"{who}_example.py", seed))
    result = {who: {"accuracy": round(statistics.mean(accuracy for accuracy, _ in done), 4),
                    "seconds": round(statistics.median(seconds for _, seconds in done), 2)}
              for who, done in runs.items()}
    keras, ours = result["keras"], result["lockstep"]
    print(json.dumps({**result, "keras_to_lockstep": round(keras["seconds"] / ours["seconds"], 2)}))
    if abs(keras["accuracy"] - ours["accuracy"]) > HALF_A_POINT:
        sys.exit("the accuracies are more than half a point apart")


if __name__ == "__main__":
    main()
