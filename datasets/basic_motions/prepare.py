"""BasicMotions of the UEA archive: its two .ts files, taken out of the wheel of the package aeon.

    python datasets/basic_motions/prepare.py [--out DIR] [--wheel aeon-1.6.0-py3-none-any.whl]

Without a wheel, pip downloads it (6 MB); aeon is neither installed nor imported.
"""

import argparse
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from tsdyn.data.archive import read_archive
from tsdyn.data.files import BASIC_MOTIONS, Source, cache_folder, digest, obtain

WHEEL = "aeon==1.6.0"
FOLDER = "aeon/datasets/data/BasicMotions"


def fetch(folder: Path) -> Path:
    """The wheel, by pip."""
    pip = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--only-binary",
        ":all:",
    ]
    subprocess.run([*pip, "--dest", str(folder), WHEEL], check=True)
    return next(folder.glob("aeon-*.whl"))


def extract(wheel: Path, out: Path, files: dict[str, Source] = BASIC_MOTIONS) -> list[Path]:
    """The files of the dataset, checked, under the names by which they are looked for."""
    with zipfile.ZipFile(wheel) as archive, tempfile.TemporaryDirectory() as temporary:
        return [
            obtain(
                public, out, Path(archive.extract(f"{FOLDER}/{Path(public.path).name}", temporary))
            )
            for public in files.values()
        ]


def summary(path: Path) -> str:
    """What came out, in one line."""
    paths = read_archive(path)
    assert paths.names is not None
    return (
        f"{path}: {' x '.join(map(str, paths.x.shape))}, classes {', '.join(paths.names.classes)}, "
        f"SHA256 {digest(path)}"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="BasicMotions of the UEA archive.")
    folder = Path(BASIC_MOTIONS["train"].path).parent
    parser.add_argument("--out", type=Path, default=cache_folder() / folder)
    parser.add_argument("--wheel", type=Path, help="the wheel of aeon, if you have it already")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        for made in extract(args.wheel or fetch(Path(temporary)), args.out):
            print(summary(made))
