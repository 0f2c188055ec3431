from pathlib import Path

from glare import weights
from glare.cli import main
from glare.evaluate import FIGURES, Evaluation
from glare.model import GLARE
from glare.training.card import write_card
from tests.glare.conftest import SMALL
from tests.glare.training.conftest import arguments


def test_figures_failures_and_training(tmp_path: Path) -> None:
    stage = {"stage": "fusion", "steps": 10, "crops": 80, "minutes": 90, "hardware": "2 CPU threads"}
    history = [{**stage, "data": ["lol/our485"], "command": "glare train fusion"}]
    weights.save(GLARE(SMALL), tmp_path, history=history)
    images = {f"{i}.png": dict.fromkeys(FIGURES, float(i)) for i in (3, 1, 6, 2, 5, 4)}
    found = Evaluation({"GLARE": dict.fromkeys(FIGURES, 3.5)}, images, {"codebook PSNR": 25.0})
    card = write_card(tmp_path, "mine", 'for "research" only', found, "lol/eval15")
    assert card == tmp_path / weights.CARD
    lines = card.read_text().splitlines()
    assert "| GLARE | 3.500 | 3.500 | 3.500 | 3.500 |" in lines
    assert "| codebook PSNR | 25.000 |" in lines
    worst = [line.split("|")[1].strip() for line in lines if ".png" in line]
    assert worst == ["1.png", "2.png", "3.png", "4.png", "5.png"]
    assert "1.5 hours in all." in lines
    assert "| fusion | 10 | 80 | 90 | 2 CPU threads | lol/our485 | `glare train fusion` |" in lines


def test_terms_of_the_weights_to_start_from_go_on(pairs: Path, tmp_path: Path) -> None:
    words = arguments("fusion", pairs, Path("glare-tiny"), tmp_path, 1, "--val", str(pairs))
    assert main(words) == 0
    packaged, own = weights.terms("glare-tiny"), weights.terms(tmp_path / "best")
    assert packaged is not None
    assert own is not None
    assert "research and non-commercial use only" in packaged
    assert own.endswith(packaged)
    assert main([*words, "--out", str(tmp_path / "other"), "--terms", "mine"]) == 0
    assert weights.terms(tmp_path / "other/best") == "mine"
