"""What the scripts that make a golden file share: they write it, or compare it with --check."""
import argparse
import json

# Of the largest of the numbers in a list. Keras' fused operations round in float32 here and there,
# and otherwise on another CPU; 8 digits are written.
TOLERANCE = 1e-6
SHOWN = 10


def write_or_check(file, make, breaks=(('}, "', '},\n"'),)):
    """Writes what make() returns, or compares it with what stands there; an exit code.

    `breaks`: replacements that break the text into lines. Versions of Keras need not be the same.
    """
    parser = argparse.ArgumentParser(description=f"Writes {file.name} from Keras.")
    parser.add_argument("--check", action="store_true", help="compare, and write nothing")
    options = parser.parse_args()
    text = json.dumps(make(), allow_nan=False) + "\n"
    for before, after in breaks:
        text = text.replace(before, after)
    if not options.check:
        file.write_text(text, encoding="utf-8")
        print(f"{file}: {len(text)} bytes")
        return 0
    made, there = json.loads(text), json.loads(file.read_text(encoding="utf-8"))
    found = list(differences({**made, "keras": ""}, {**there, "keras": ""}))
    for path in found[:SHOWN]:
        print(f"{file.name}{path} differs")
    print(f"{file.name}: " + (f"DIFFERS from what Keras computes now, in {len(found)} places"
                              if found else "as Keras computes now"))
    return 1 if found else 0


def is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def differences(a, b, path=""):
    """Places where two golden files say different things."""
    if isinstance(a, dict) and isinstance(b, dict):
        for key in sorted(set(a) | set(b)):
            if key in a and key in b:
                yield from differences(a[key], b[key], f"{path}/{key}")
            else:
                yield f"{path}/{key}"
    elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        if a and all(map(is_number, a + b)):
            largest = max(map(abs, a + b))
            if any(abs(x - y) > TOLERANCE * largest for x, y in zip(a, b)):
                yield path
            return
        for index, (x, y) in enumerate(zip(a, b)):
            yield from differences(x, y, f"{path}[{index}]")
    elif is_number(a) and is_number(b):
        if abs(a - b) > TOLERANCE * max(abs(a), abs(b)):
            yield path
    elif a != b:
        yield path
