"""Folders of images: order, classes, pixels, and files that cannot be used."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from hardpoint.core.errors import DataError, NothingToTest
from hardpoint.data import load_data

Image = pytest.importorskip("PIL.Image")
RANDOM = np.random.default_rng(2).integers(0, 256, (6, 9, 7, 3), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "set"
    for i, name in enumerate(["dog", "cat", "cat", "dog", "cat", "dog"]):
        (root / name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(RANDOM[i]).save(root / name / f"{9 - i}.png")
    (root / "cat" / ".hidden").write_text("no image")
    (root / "cat" / "notes.txt").write_text("no image")
    (root / "readme.txt").write_text("no class")
    return root


def test_files_come_in_name_order_with_folder_labels(folder: Path) -> None:
    data = load_data(folder)
    assert data.classes == ("cat", "dog")
    assert data.shape == (3, 9, 7)
    x, y = data.rows(torch.arange(6))
    assert y.tolist() == [0, 0, 0, 1, 1, 1]
    expected = RANDOM[[4, 2, 1, 5, 3, 0]].transpose(0, 3, 1, 2).astype(np.float32)
    assert torch.equal(x, torch.from_numpy(expected) / 255)
    assert load_data(folder).sha256() == data.sha256()


def test_classes_give_the_order(folder: Path) -> None:
    assert load_data(folder, classes=("dog", "cat"), limit=2).rows(torch.arange(2))[1].tolist() == [0, 0]
    with pytest.raises(DataError, match="no folder for class 'dogs'; did you mean 'dog'"):
        load_data(folder, classes=("cat", "dogs"))
    (folder / "bird").mkdir()
    with pytest.raises(DataError, match=r"'bird' .* not among the classes"):
        load_data(folder, classes=("dog", "cat"))


def test_all_grey_images_have_one_channel_and_one_colour_image_makes_three(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Image.fromarray(RANDOM[0, :, :, 0]).save(tmp_path / name / "1.png")
    assert load_data(tmp_path).shape == (1, 9, 7)
    Image.fromarray(RANDOM[0]).save(tmp_path / "b" / "2.PNG")
    data = load_data(tmp_path)
    assert data.shape == (3, 9, 7)
    assert torch.equal(data.rows(torch.tensor([0]))[0][0, 0], data.rows(torch.tensor([0]))[0][0, 2])


def test_jpeg_is_read(folder: Path) -> None:
    Image.fromarray(np.full((9, 7, 3), 100, np.uint8)).save(folder / "cat" / "0.jpg")
    assert torch.allclose(load_data(folder).rows(torch.tensor([0]))[0], torch.tensor(100 / 255), atol=0.02)


def test_another_size_names_both_files(folder: Path) -> None:
    Image.fromarray(RANDOM[0, :5]).save(folder / "dog" / "z.png")
    with pytest.raises(DataError, match=r"dog.z\.png is 7 x 5 pixels, .*cat.5\.png is 7 x 9"):
        load_data(folder)


@pytest.mark.parametrize("content", [b"", b"not an image", "cut", "flip"])
def test_an_unreadable_image_is_named(folder: Path, content: bytes | str) -> None:
    bad = folder / "dog" / "4.png"
    if isinstance(content, str):
        raw = bytearray((folder / "dog" / "9.png").read_bytes())
        raw[60] ^= 0xFF
        content = bytes(raw[:-90]) if content == "cut" else bytes(raw)
    bad.write_bytes(content)
    with pytest.raises(DataError, match=r"dog.4\.png"):
        load_data(folder)


def test_links_are_followed_and_dead_links_named(folder: Path, tmp_path: Path) -> None:
    Image.fromarray(RANDOM[0]).save(tmp_path / "outside.png")
    (folder / "cat" / "link.png").symlink_to(tmp_path / "outside.png")
    assert len(load_data(folder)) == 7
    (folder / "cat" / "dead.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(DataError, match=r"dead\.png"):
        load_data(folder)


def test_forms_that_lose_information_are_refused(folder: Path) -> None:
    path = folder / "cat" / "0.png"
    Image.fromarray(np.dstack([RANDOM[0], np.full((9, 7), 128, np.uint8)])).save(path)
    with pytest.raises(DataError, match=r"0\.png is partly transparent"):
        load_data(folder)
    Image.fromarray(np.dstack([RANDOM[0], np.full((9, 7), 255, np.uint8)])).save(path)
    assert torch.equal(
        (load_data(folder).rows(torch.tensor([0]))[0] * 255).round().byte()[0],
        torch.from_numpy(RANDOM[0].transpose(2, 0, 1).copy()),
    )
    Image.fromarray(np.zeros((9, 7), np.uint16)).save(path)
    with pytest.raises(DataError, match="more than 8 bits"):
        load_data(folder)


def test_a_huge_claim_is_refused(folder: Path) -> None:
    raw = bytearray((folder / "dog" / "9.png").read_bytes())
    raw[16:24] = (9000).to_bytes(4, "big") * 2
    import zlib

    raw[29:33] = zlib.crc32(raw[12:29]).to_bytes(4, "big")
    (folder / "cat" / "0.png").write_bytes(bytes(raw))
    with pytest.raises(DataError, match="claims 9000 x 9000 pixels"):
        load_data(folder)


def test_folders_without_images(tmp_path: Path) -> None:
    with pytest.raises(NothingToTest, match="no sub-folders"):
        load_data(tmp_path)
    (tmp_path / "a").mkdir()
    with pytest.raises(DataError, match="no PNG or JPEG"):
        load_data(tmp_path)
    (tmp_path / "a" / "x.webp").write_bytes(b"RIFF")
    with pytest.raises(DataError, match=r"x\.webp is neither"):
        load_data(tmp_path)
