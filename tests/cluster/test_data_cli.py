"""The verbs of `effnet-cluster data`: what they print, where, and how they end."""

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest
from PIL import Image

from effnet_cluster.datasets import Manifest, index_shards

from .conftest import Cli


@pytest.mark.parametrize("verb", ["prepare", "index", "inspect", "verify"])
def test_every_verb_explains_itself(cli: Cli, verb: str) -> None:
    result = cli("data", verb, "-h")
    assert result.exit_code == 0
    assert result.stdout.startswith(f"Usage: effnet-cluster data {verb}")


def test_a_csv_is_prepared_and_duplicates_are_told(cli: Cli, photos: Path, tmp_path: Path) -> None:
    files = sorted(photos.glob("*/*.jpg"))
    rows = [[str(f), f.parent.name, "val" if f.stem == "04" else "train"] for f in files]
    copy = tmp_path / "copy.jpg"
    shutil.copy(files[0], copy)
    with (tmp_path / "list.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["file", "kind", "part"], *rows, [str(copy), "china", "val"]])
    columns = ["--path-column", "file", "--label-column", "kind", "--split-column", "part"]
    result = cli("data", "prepare", tmp_path / "list.csv", tmp_path / "a", *columns, "--workers", "1")
    assert (result.exit_code, result.stdout) == (
        0,
        f"list: 8 train, 3 val images of 2 classes (china, flower) in {tmp_path}/a\n",
    )
    assert result.stderr.startswith("warning: 1 image is in more than one split, by the same bytes: train/")
    assert result.stderr.splitlines()[1:] == ["11 files seen: 11 samples (8 train, 3 val)"]
    result = cli("data", "prepare", tmp_path / "list.csv", tmp_path / "b", *columns, "--drop-duplicates")
    assert result.stdout == f"list: 7 train, 3 val images of 2 classes (china, flower) in {tmp_path}/b\n"
    account = "11 files seen: 10 samples (7 train, 3 val), 1 ignored (1 in other splits too)"
    assert result.stderr == f"{account}; listed in {tmp_path}/b/account.json\n"


def test_images_are_made_smaller(cli: Cli, photos: Path, tmp_path: Path) -> None:
    assert cli("data", "prepare", photos, tmp_path / "out", "--max-side", "40", "--quality", "80").exit_code == 0
    found = json.loads(cli("data", "inspect", tmp_path / "out", "--json").stdout)
    assert [split["long_side"]["1"] for split in found["splits"].values()] == [40, 40]
    result = cli("data", "prepare", photos, tmp_path / "other", "--max-side", "0")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == "error: the longest side must be at least 1 pixel, got 0\n"


@pytest.mark.parametrize("flags", [["--workers", "0"], ["--workers", "2", "--ray"]])
def test_a_wrong_number_of_workers_is_refused(cli: Cli, photos: Path, tmp_path: Path, flags: list[str]) -> None:
    result = cli("data", "prepare", photos, tmp_path / "out", *flags)
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (2, "", 1)


def test_existing_shards_are_indexed_in_place(cli: Cli, shards: Manifest, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(shards.root, tmp_path / "theirs", ignore=shutil.ignore_patterns("*.json", "*.npz")))
    (tmp_path / "names.txt").write_text("china\nflower\n")
    result = cli("data", "index", folder, "--classes", tmp_path / "names.txt", "--name", "photos")
    assert (result.exit_code, result.stdout) == (
        0,
        f"photos: 8 train, 2 val images of 2 classes (china, flower) in {folder}\n",
    )
    assert Manifest.load(folder).digest == index_shards(shards.root, classes=shards.classes).digest
    assert cli("data", "index", folder).exit_code == 2  # there is a manifest now
    assert cli("data", "index", folder, "--val", "v*.tar").exit_code == 2


def test_an_index_says_what_it_decided_and_where_every_member_ended(cli: Cli, tmp_path: Path) -> None:
    pictures = [io.BytesIO() for _ in range(6)]
    for number, picture in enumerate(pictures):
        Image.new("L", (4, 4), number).save(picture, "PNG")
    (tmp_path / "names.txt").write_bytes(b"\xef\xbb\xbfcrane\r\n\r\ntench\r\ncrane\r\n")
    for split, numbers in (("train", range(4)), ("validation", (4, 5, 0))):
        with tarfile.open(tmp_path / f"x-{split}-0.tar", "w") as tar:
            for place, number in enumerate(numbers):
                for name, data in (
                    ("png", pictures[number].getvalue()),
                    ("cls", b"%d" % (place % 3)),
                    ("txt", b"[a] b"),
                ):
                    info = tarfile.TarInfo(f"[b]img.{place}.{name}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
    result = cli("data", "index", tmp_path, "--classes", tmp_path / "names.txt", "--name", "birds")
    assert (result.exit_code, result.stdout) == (
        0,
        f"birds: 4 train, 3 val images of 3 classes (crane (0), tench, crane (2)) in {tmp_path}\n",
    )
    assert result.stderr.splitlines() == [
        "labels in .cls are indices of the 3 given classes",
        "warning: 1 image is in more than one split, by the same bytes: train/[b]img.0 = val/[b]img.2",
        "warning: 1 image is under more than one class, by the same bytes: train/[b]img.0 = val/[b]img.2",
        f"21 members seen: 7 samples (4 train, 3 val), 7 ignored (7 .txt); listed in {tmp_path}/account.json",
    ]
    assert Manifest.load(tmp_path).classes == ("crane (0)", "tench", "crane (2)")
    (tmp_path / "manifest.json").unlink()
    (tmp_path / "extra.tar").write_bytes((tmp_path / "x-train-0.tar").read_bytes())
    result = cli("data", "index", tmp_path)
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (2, "", 1)
    assert "extra.tar (1), x-train-*.tar (1), x-validation-*.tar (1)" in result.stderr
    assert "--train PATTERN, --val PATTERN, --test PATTERN" in result.stderr
    result = cli("data", "index", tmp_path, "--train", "x-train-*.tar", "--val", "x-val*.tar")
    assert result.stdout.startswith(f"{tmp_path.name}: 4 train, 3 val images")


def test_inspect_prints_a_table_json_and_a_picture(cli: Cli, shards: Manifest, tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.png"
    result = cli("data", "inspect", shards.root, "--sheet", sheet)
    assert (result.exit_code, result.stderr) == (0, "")
    assert shards.digest in result.stdout
    lines = [line.split() for line in result.stdout.splitlines()]
    assert ["china", "4", "1"] in lines
    assert ["flower", "4", "1"] in lines
    with Image.open(sheet) as picture:
        assert picture.format == "PNG"
    assert cli("data", "inspect", shards.root, "--sheet", tmp_path / "no" / "sheet.png").exit_code == 2
    assert cli("data", "inspect", shards.root, "--sheet", sheet, "--split", "test").exit_code == 2


def test_of_many_classes_the_largest_and_smallest_are_shown(cli: Cli, tmp_path: Path) -> None:
    for number in range(30):
        for split, count in (("train", number + 1), ("val", 1)):
            folder = tmp_path / "raw" / split / f"c{number:02d}"
            folder.mkdir(parents=True)
            for image in range(count):
                Image.new("L", (4, 4), image).save(folder / f"{image}.png")
    assert cli("data", "prepare", tmp_path / "raw", tmp_path / "out", "--workers", 1).exit_code == 0
    shown = [line.split()[0] for line in cli("data", "inspect", tmp_path / "out").stdout.splitlines()]
    classes = [word for word in shown if word.startswith("c") and word[1:].isdigit()]
    assert classes == [f"c{n:02d}" for n in (*range(29, 19, -1), *range(9, -1, -1))]
    counts = json.loads(cli("data", "inspect", tmp_path / "out", "--json").stdout)["splits"]
    assert {name: sum(of["counts"][name] for of in counts.values()) for name in counts["train"]["counts"]} == {
        f"c{n:02d}": n + 2 for n in range(30)
    }


def test_verify_lists_every_bad_shard_and_exits_with_1(cli: Cli, shards: Manifest, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(shards.root, tmp_path / "copy"))
    result = cli("data", "verify", folder)
    assert (result.exit_code, result.stderr) == (0, "")
    assert "all 2 shards" in result.stdout
    with (folder / "train" / "000000.tar").open("r+b") as file:
        file.seek(2000)
        file.write(b"!")
    (folder / "val" / "000000.tar").unlink()
    result = cli("data", "verify", folder)
    assert result.exit_code == 1
    assert [line.partition(":")[0] for line in result.stdout.splitlines()] == ["train/000000.tar", "val/000000.tar"]
    assert result.stderr == f"error: 2 of 2 shards of {folder} are bad\n"
    assert cli("data", "verify", tmp_path / "none").exit_code == 2


def test_ctrl_c_says_how_to_go_on(tmp_path: Path) -> None:
    # Large ones in between, to be compressed, so that there is work left when the first shard is done.
    large = tmp_path / "large.bmp"
    Image.effect_noise((2400, 2400), 64).save(large)
    for number in range(1000):
        folder = tmp_path / "raw" / f"{number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        if number % 50:
            Image.new("L", (4, 4), number % 251).save(folder / f"{number}.bmp")
        else:
            (folder / f"{number}.bmp").hardlink_to(large)
    code = "from effnet_cluster.cluster.cli import main\nif __name__ == '__main__': main()\n"
    (tmp_path / "main.py").write_text(code)
    process = subprocess.Popen(
        [sys.executable, tmp_path / "main.py", "data", "prepare", tmp_path / "raw", tmp_path / "out", "--workers", "2",
         "--val-fraction", "0.9"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    finished = tmp_path / ".out.partial" / "finished"
    deadline = time.monotonic() + 60
    while not any(finished.glob("[!.]*.npz")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stdout) == (1, "")
    assert "finished shards are kept in" in stderr
    assert "the same command goes on" in stderr
    assert "Traceback" not in stderr


@pytest.mark.e2e
def test_ray_builds_the_same_shards_and_tells_the_same_mistakes(photos: Path, shards: Manifest, tmp_path: Path) -> None:
    # A process of its own: Ray takes its settings from the environment when it is imported. A relative path, because
    # Ray's workers have another working directory.
    shutil.copytree(photos, tmp_path / "photos")
    code = "from effnet_cluster.cluster.cli import main\nmain()\n"
    command = [sys.executable, "-c", code, "data", "prepare", "--ray", "photos"]
    run = subprocess.run([*command, "out"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout) == (0, "photos: 8 train, 2 val images of 2 classes (china, flower) in out\n"), (
        run.stderr
    )
    assert Manifest.load(tmp_path / "out").digest == shards.digest
    (tmp_path / "photos" / "china" / "02.jpg").write_bytes(b"no image")
    run = subprocess.run([*command, "bad"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout) == (2, "")
    assert f"error: {tmp_path}/photos/china/02.jpg: not an image" in run.stderr
    assert "Traceback" not in run.stderr
