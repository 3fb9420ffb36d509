"""Speech Commands, ten words: the cepstral coefficients of all clips of one second.

    python datasets/speech_commands/prepare.py [--out DIR] [--source speech_commands_v0.02.tar.gz]

Without a source the archive is downloaded (2.4 GB). It is not unpacked.
"""

import argparse
import io
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import torch
from torch import Tensor

from tsdyn.batch import Clock, Names
from tsdyn.data.audio import mfcc, read_wav
from tsdyn.data.files import SPEECH_COMMANDS, cache_folder, digest, download
from tsdyn.data.records import write_records
from tsdyn.errors import DataError

URL = "http://download.tensorflow.org/data/speech_commands_v0.02.tar.gz"
SHA256 = "af14739ee7dc311471de98f5f9d2c9191b18aedfe957f4a6ff791c709868ff58"
WORDS = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")
RATE, HOP, N = 16_000, 100, 20


def clips(archive: Path) -> Iterator[tuple[str, Tensor]]:
    """(`yes/0a7c2a8d_nohash_0`, samples) of every clip of one of the words that lasts one second."""
    with tarfile.open(archive) as files:
        for member in files:
            path = PurePosixPath(member.name)
            if path.suffix != ".wav" or path.parent.name not in WORDS:
                continue
            file = files.extractfile(member)
            assert file is not None
            x = read_wav(io.BytesIO(file.read()), RATE)
            if len(x) == RATE:
                yield f"{path.parent.name}/{path.stem}", x


def word(name: str) -> int:
    """The number of the word of the clip `yes/0a7c2a8d_nohash_0`."""
    return WORDS.index(name.split("/")[0])


def prepare(archive: Path, target: Path) -> Path:
    """One file of all clips, in the order of words and names."""
    # transformed one by one: the sound of all of them would fill 2 GB
    found = {name: mfcc(x, N, RATE, hop=HOP) for name, x in clips(archive)}
    if not found:
        raise DataError(
            "D01", f"{archive} holds no clip of one second", "<word>/<clip>.wav", "Get it again"
        )
    order = sorted(found, key=lambda name: (word(name), name))
    channels = tuple(f"mfcc_{k:02d}" for k in range(N))
    names = Names(tuple(order), channels, Clock("float"), classes=WORDS)
    series = [
        (torch.arange(len(x)).double() * (HOP / RATE), x) for x in map(found.__getitem__, order)
    ]
    return write_records(target, series, names, labels=torch.tensor([word(n) for n in order]))


def checked(archive: Path) -> Path:
    """The archive, if it is the published one."""
    if digest(archive) != SHA256:
        raise DataError(
            "D14", f"{archive} is not the public file", f"SHA256 {SHA256}", "Get the file again"
        )
    return archive


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Speech Commands, ten words.")
    parser.add_argument("--out", type=Path, default=cache_folder() / "speech_commands")
    parser.add_argument("--source", type=Path, help="the archive, if you have it already")
    args = parser.parse_args()
    archive = (
        checked(args.source)
        if args.source
        else download(URL, args.out / URL.rpartition("/")[2], SHA256)
    )
    print(prepare(archive, args.out / Path(SPEECH_COMMANDS.path).name))
