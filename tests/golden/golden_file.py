"""What the scripts that make a golden file share: they write it, or compare it with --check."""
import argparse
import json


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
    same = {**made, "keras": ""} == {**there, "keras": ""}
    print("as Keras computes now" if same else "DIFFERS from what Keras computes now")
    return 0 if same else 1
