"""Write the arrays that the readers' tests read, with NumPy.

    python3 -m venv build/venv-arrays
    build/venv-arrays/bin/pip install numpy
    build/venv-arrays/bin/python tests/data/make_arrays.py

Numbers are those that array_files_test.cc computes: value i of an array in C order is i - 3 (i for
types without a sign, i % 2 for bool, (i - 3) / 4 for floats).
"""
import io
import pathlib
import zipfile

import numpy

FOLDER = pathlib.Path(__file__).parent / "arrays"
SHAPE = (4, 2, 3)


def values(dtype, shape=SHAPE):
    index = numpy.arange(numpy.prod(shape)).reshape(shape)
    kind = numpy.dtype(dtype).kind
    if kind == "b":
        return index % 2 == 1
    if kind == "u":
        return index.astype(dtype)
    return ((index - 3) / (4 if kind == "f" else 1)).astype(dtype)


def npy_bytes(array, version=None):
    file = io.BytesIO()
    numpy.lib.format.write_array(file, array, version=version)
    return file.getvalue()


def write_npy():
    for dtype in "b1 u1 i1 u2 i2 u4 i4 u8 i8 f2 f4 f8".split():
        numpy.save(FOLDER / f"{dtype}.npy", values(dtype))
    for dtype in ">i4", ">f8":
        numpy.save(FOLDER / f"big_{dtype[1:]}.npy", values(dtype))
        numpy.save(FOLDER / f"big_fortran_{dtype[1:]}.npy",
                   numpy.asfortranarray(values(dtype)))
    numpy.save(FOLDER / "fortran_f4.npy", numpy.asfortranarray(values("f4")))
    for version in (1, 0), (2, 0), (3, 0):
        name = f"version_{version[0]}.npy"
        (FOLDER / name).write_bytes(npy_bytes(values("f4"), version))
    special = numpy.array([0, 6e-8, -6e-8, 6.1e-5, 1, -2, 65504, -65504, numpy.inf, -numpy.inf])
    numpy.save(FOLDER / "half.npy", special.astype("f2"))


def write_refused():
    numpy.save(FOLDER / "objects.npy", numpy.array([{"a": 1}, None]), allow_pickle=True)
    numpy.save(FOLDER / "structured.npy", numpy.zeros(3, [("a", "<f4"), ("b", "<i4")]))
    numpy.save(FOLDER / "text.npy", numpy.array(["one", "two"]))
    numpy.save(FOLDER / "bytes.npy", numpy.array([b"one", b"two"]))
    numpy.save(FOLDER / "complex.npy", numpy.zeros(3, "c8"))
    numpy.save(FOLDER / "dates.npy", numpy.zeros(3, "M8[D]"))
    numpy.save(FOLDER / "void.npy", numpy.zeros(3, "V5"))
    numpy.save(FOLDER / "scalar.npy", numpy.float32(3))
    numpy.save(FOLDER / "empty.npy", numpy.zeros((0, 3), "f4"))


def write_npz():
    arrays = {"x_train": values("f4", (6, 2)), "y_train": numpy.arange(6) % 3,
              "x_test": values("u1", (3, 2)), "y_test": numpy.arange(3),
              "sample_weight": numpy.linspace(0.5, 3, 6)}
    numpy.savez(FOLDER / "stored.npz", **arrays)
    numpy.savez_compressed(FOLDER / "deflated.npz", **arrays)
    numpy.savez(FOLDER / "named.npz", age=values("f8", (5, 1)), image=values("u1", (5, 2, 2)),
                price=values("f4", (5, 2)), rating=numpy.arange(5))
    with zipfile.ZipFile(FOLDER / "lzma.npz", "w", zipfile.ZIP_LZMA) as archive:
        for name, array in arrays.items():
            archive.writestr(name + ".npy", npy_bytes(array))


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    write_npy()
    write_refused()
    write_npz()
