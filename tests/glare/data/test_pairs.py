from pathlib import Path

import pytest
import torch
from PIL import Image

from glare.data.pairs import Crops, list_pairs, match_pairs, read


def write(path: Path, size: tuple[int, int] = (80, 60), value: int = 100) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.linear_gradient("L").resize(size).point(lambda v: v * value // 255)
    image.convert("RGB").save(path)
    return path


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    for i in range(3):
        write(tmp_path / "low" / f"{i}.png", value=20)
        write(tmp_path / "high" / f"{i}.png", value=200)
    return tmp_path


class TestListPairs:
    @pytest.mark.parametrize(
        ("low", "high"),
        [
            ("low/1.png", "high/1.jpg"),
            ("input/1.png", "target/1.png"),
            ("Low/low1.png", "Normal/normal1.png"),
            ("LOW/1.png", "High/1.png"),
            ("low/1.png", "normal/1.png"),
            ("input/1.png", "gt/1.png"),
            ("Input/1.png", "GT/1.png"),
            ("LQ/1.png", "GT/1.png"),
            ("low/1_low.png", "high/1_high.png"),
            ("input/input_001.png", "GT/GT-001.png"),
            ("test_low/1.png", "test_high/1.png"),
            ("low_eval/1.png", "high_eval/1.png"),
        ],
    )
    def test_known_names(self, tmp_path: Path, low: str, high: str) -> None:
        expected = write(tmp_path / low), write(tmp_path / high)
        assert list_pairs(tmp_path) == [expected]

    def test_images_without_partner_are_listed(self, pairs: Path) -> None:
        (pairs / "high" / "1.png").unlink()
        extra = write(pairs / "high" / "7.png")
        with pytest.raises(ValueError, match="2 faults in the pairs of") as error:
            list_pairs(pairs)
        assert str(pairs / "low" / "1.png") in str(error.value)
        assert str(extra) in str(error.value)

    def test_folder_without_pairs(self, tmp_path: Path) -> None:
        with pytest.raises(
            FileNotFoundError, match="holds no pairs of images: expected the folders low/ and high/"
        ):
            list_pairs(tmp_path)


class TestCrops:
    def test_is_a_function_of_seed_and_index(self, pairs: Path) -> None:
        first, second = (Crops([pairs], [pairs / "high"], 32, 100, seed=3) for _ in range(2))
        for i in (0, 7, 42):
            for a, b in zip(first[i], second[i], strict=True):
                assert torch.equal(a, b)
        assert not torch.equal(first[0][1], Crops([pairs], [pairs / "high"], 32, 100, seed=4)[0][1])

    def test_says_what_a_crop_is_cut_from(self, pairs: Path) -> None:
        data = Crops([pairs], [], 32, 100)
        low, high = data.files(5)
        assert (low.parent.name, high.parent.name) == ("low", "high")
        (pairs / "low" / low.name).write_bytes(b"nothing")
        with pytest.raises(ValueError, match=f"Cannot read the image .*{low.name}"):
            data[5]

    def test_pairs_stay_aligned(self, pairs: Path) -> None:
        data = Crops([pairs], [], 32, 100)
        for i in range(20):
            low, high = data[i]
            assert low.shape == high.shape == (3, 32, 32)
            torch.testing.assert_close(low, high * 20 / 200, rtol=0, atol=2 / 255)

    def test_photographs_are_darkened(self, pairs: Path) -> None:
        data = Crops([], [pairs / "high"], 32, 100)
        assert all(low.mean() < high.mean() for low, high in (data[i] for i in range(10)))

    def test_stage_1_gets_them_as_they_are(self, pairs: Path) -> None:
        low, high = Crops([], [pairs / "high"], 32, 100, darken=False)[0]
        assert torch.equal(low, high)

    def test_each_file_is_decoded_once_while_there_is_room(
        self, pairs: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        decoded: list[Path] = []

        def counted(path: Path) -> torch.Tensor:
            decoded.append(path)
            return read(path)

        monkeypatch.setattr("glare.data.pairs.read", counted)
        data = Crops([], [pairs / "high"], 32, 100)
        for i in range(30):
            data[i]
        assert len(decoded) == len(set(decoded)) == len(data.photos)
        monkeypatch.setattr("glare.data.pairs.DECODED_BYTES", 0)
        first, again = Crops([], [pairs / "high"], 32, 100), data
        assert all(torch.equal(a, b) for i in range(5) for a, b in zip(first[i], again[i], strict=True))
        assert len(decoded) == len(data.photos) + 5

    def test_small_images_are_enlarged(self, tmp_path: Path) -> None:
        write(tmp_path / "a.png", size=(20, 50))
        assert Crops([], [tmp_path], 32, 1)[0][0].shape == (3, 32, 32)

    @pytest.mark.parametrize("crop", [30, 16])
    def test_crop_must_fit_the_network(self, pairs: Path, crop: int) -> None:
        with pytest.raises(ValueError, match=f"multiple of 4 of at least 32 but got {crop}"):
            Crops([pairs], [], crop, 1)


def test_faults_are_listed_before_training(pairs: Path) -> None:
    write(pairs / "high" / "1.png", size=(70, 60))
    (pairs / "low" / "2.png").write_bytes(b"nothing")
    write(pairs / "low" / "0.jpg")
    with pytest.raises(ValueError, match="3 faults in the pairs of") as error:
        Crops([pairs], [], 32, 100)
    for fault in ("differ in size: (80, 60), (70, 60)", "2.png cannot be read", "has the same name as"):
        assert fault in str(error.value)
    with pytest.raises(ValueError, match=r"1 faults in the photographs:\n.*2\.png cannot be read"):
        Crops([], [pairs / "low"], 32, 100)


def test_a_test_goes_on_with_the_sound_pairs(pairs: Path) -> None:
    write(pairs / "high" / "1.png", size=(70, 60))
    write(pairs / "low" / "2.jpg")
    (pairs / "low" / "3.png").write_bytes(b"nothing")
    write(pairs / "high" / "3.png")
    write(pairs / "low" / "4.png")
    sound, problems = match_pairs(pairs)
    assert sound == [(pairs / "low" / "0.png", pairs / "high" / "0.png")]
    said = ("differ in size", "2.png has the same name as", "3.png cannot be read", "4.png has no partner")
    assert len(problems) == len(said)
    for problem, words in zip(problems, said, strict=True):
        assert words in problem


@pytest.mark.parametrize("suffix", [".bmp", ".tif"])
def test_images_that_torchvision_does_not_decode(tmp_path: Path, suffix: str) -> None:
    file = write(tmp_path / f"a{suffix}")
    assert torch.equal(read(file), read(write(tmp_path / "a.png")))
    file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(ValueError, match="Cannot read the image"):
        read(file)


def test_folders_within_count_in_the_name(pairs: Path) -> None:
    for name in ("low", "high"):
        write(pairs / name / "more" / "1.png")
    assert len(list_pairs(pairs)) == 4


def test_16_bit_images_are_rounded(tmp_path: Path) -> None:
    values = torch.tensor([[0, 257, 30000, 65535]])
    image = torch.stack([values] * 3).to(torch.uint16).numpy()
    # Pillow writes no 16-bit colour: as grey, which is read as RGB.
    Image.fromarray(image[0]).save(tmp_path / "a.png")
    assert read(tmp_path / "a.png")[0].tolist() == [[0, 1, 117, 255]]


def test_exif_orientation_is_applied_to_both(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90° to view
    upright = Image.effect_noise((40, 60), 60).convert("RGB")
    for folder in ("low", "high"):
        (tmp_path / folder).mkdir()
    upright.rotate(90, expand=True).save(tmp_path / "low" / "1.png", exif=exif)
    upright.save(tmp_path / "high" / "1.png")
    ((low, high),) = list_pairs(tmp_path)
    assert torch.equal(read(low), read(high))


def test_unreadable_image_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"Cannot read the image .*a\.png"):
        read(tmp_path / "a.png")
