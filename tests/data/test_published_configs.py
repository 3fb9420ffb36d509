"""Configurations of data that are not here, on a few series of the published form: they fit, train and test."""

import io
import tarfile
import zipfile

import pytest
import torch
from data_files import ROOT, put, script
from test_audio import sound
from test_physionet import archive

from tsdyn.batch import Paths
from tsdyn.data.archives import sources
from tsdyn.data.files import PHYSIONET_2012, PHYSIONET_2019, SPEECH_COMMANDS
from tsdyn.data.tasks import Labels
from tsdyn.lit.cli import Command
from tsdyn.models.base import Model


def draw(*shape):
    return torch.randn(shape).tolist()


def write_physionet_2012(folder, tmp_path):
    """20 records in each set: a few of the parameters at each of 30 minutes, every one at the first.

    The first record of a set holds no value, as some of the real ones.
    """
    prepare = script("physionet_2012")
    for number, (part, public) in enumerate(PHYSIONET_2012.items()):
        texts = {}
        for name in map(str, range(1000 + 20 * number, 1020 + 20 * number)):
            lines = [f"00:00,RecordID,{name}", "00:00,Age,54", "00:00,Gender,0"]
            lines += ["00:00,Height,170", "00:00,ICUType,4"]
            minutes = [0, *torch.randperm(48 * 60 - 1)[:30].add(1).sort().values.tolist()]
            minutes = minutes if texts else []
            for minute in minutes:
                at = f"{minute // 60:02d}:{minute % 60:02d}"
                some = torch.randperm(37)[:5].tolist() if minute else range(37)
                values = (torch.rand(37) * 50 + 1).tolist()
                lines += [f"{at},{prepare.CHANNELS[k]},{values[k]:.3f}" for k in some]
            texts[name] = "\n".join(["Time,Parameter,Value", *lines, ""])
        made = archive(tmp_path / f"set-{part}.tar.gz", texts)
        prepare.prepare(made, None, folder / public.path, 20)


def write_physionet_2019(folder, tmp_path):
    """20 stays in each set, of 8 to 27 hours, sepsis at the end of every fourth."""
    prepare = script("physionet_2019")
    for part, public in PHYSIONET_2019.items():
        with zipfile.ZipFile(tmp_path / f"{part}.zip", "w") as files:
            for k in range(20):
                rows = ["|".join(prepare.COLUMNS)]
                for hour in range(1, 9 + k):
                    seen = torch.rand(34) < (1.0 if hour == 1 else 0.2)
                    values = [f"{v:.3f}" if s else "NaN" for v, s in zip(draw(34), seen)]
                    sepsis = int(k % 4 == 0 and hour == 8 + k)
                    rows.append(
                        "|".join([*values, "61", "1", "1", "0", "-0.5", f"{hour}|{sepsis}"])
                    )
                files.writestr(f"training/p{k:06d}.psv", "\n".join(rows) + "\n")
        prepare.prepare(tmp_path / f"{part}.zip", folder / public.path, 20)


def write_speech_commands(folder, tmp_path):
    """Three clips of noise for each of the ten words."""
    prepare = script("speech_commands")
    with tarfile.open(tmp_path / "speech.tar.gz", "w:gz") as files:
        for word in prepare.WORDS:
            for k in range(3):
                content = sound(torch.randint(-9000, 9000, (16_000,)).numpy())
                member = tarfile.TarInfo(f"./{word}/{k}_nohash_0.wav")
                member.size = len(content)
                files.addfile(member, io.BytesIO(content))
    prepare.prepare(tmp_path / "speech.tar.gz", folder / SPEECH_COMMANDS.path)


def write_archive(folder, name, dim, classes, lengths):
    """Two series of each class in each part, of different lengths."""
    head = f"@problemName toy\n@timeStamps false\n@univariate false\n@dimensions {dim}\n"
    head += f"@equalLength false\n@classLabel true {' '.join(classes)}\n@data\n"
    for source in sources(name).values():
        rows = []
        for k, label in enumerate(2 * classes):
            values = draw(dim, lengths[k % len(lengths)])
            rows.append(":".join([*(",".join(map(str, v)) for v in values), label]))
        put(folder, source.path, (head + "\n".join(rows) + "\n").encode())


def write_basic_motions(folder, tmp_path):
    write_archive(folder, "basic_motions", 6, ["Standing", "Running", "Walking", "Badminton"], [20])


def write_japanese_vowels(folder, tmp_path):
    write_archive(folder, "japanese_vowels", 12, list("123456789"), [7, 29, 15])


def inner(model: Model) -> Model:
    """What a wrapper wraps."""
    return model.arguments.get("model", model)


@pytest.mark.parametrize(
    "name, write",
    [
        ("physionet_2012_latent_sde", write_physionet_2012),
        ("physionet_2019_neural_cde", write_physionet_2019),
        ("physionet_2019_lnsde", write_physionet_2019),
        ("physionet_2019_lnsde_no_counts", write_physionet_2019),
        ("speech_commands_neural_cde", write_speech_commands),
        ("speech_commands_lsde", write_speech_commands),
        ("basic_motions_neural_cde", write_basic_motions),
        ("basic_motions_lnsde", write_basic_motions),
        ("japanese_vowels_gru", write_japanese_vowels),
    ],
)
def test_a_configuration_fits_its_data(name, write, places, tmp_path):
    write(places[0], tmp_path)
    options = {
        "trainer.default_root_dir": tmp_path / "runs",
        "trainer.accelerator": "cpu",
        "trainer.max_epochs": 1,
        "trainer.min_epochs": 1,
        "trainer.limit_train_batches": 2,
        "trainer.logger": "false",
        "data.batch_size": 8,
    }
    flags = [text for key, value in options.items() for text in (f"--{key}", str(value))]
    words = ["--config", str(ROOT / "configs" / f"{name}.yaml"), *flags]
    run = Command(["fit", *words])
    assert run.trainer.global_step == 2
    (last,) = (tmp_path / "runs").rglob("last.ckpt")
    scores = Command(["test", *words, "--ckpt_path", str(last)]).trainer.callback_metrics
    assert all(score.isfinite() for score in scores.values())

    given, want, _ = next(iter(run.datamodule.train_dataloader()))
    arguments = inner(run.model.model).arguments
    assert arguments["dim"] == given.x.shape[-1] == len(run.datamodule.names.channels)
    covariates = 0 if given.covariates is None else given.covariates.shape[-1]
    assert arguments.get("covariates", 0) == covariates
    if isinstance(want, Labels):
        assert arguments["classes"] == len(run.datamodule.names.classes)
        assert 0 <= scores["test/accuracy"] <= 1
    else:
        assert isinstance(want, Paths) and scores.keys() >= {"test/crps", "test/mse"}
