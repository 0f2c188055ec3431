import numpy as np

from detection.metrics.average_precision import Matches
from detection.metrics.bootstrap import Difference, paired_bootstrap
from tests.detection.squares import found, sample

BOX, FAR = [0.0, 0.0, 50.0, 50.0], [60.0, 60.0, 90.0, 90.0]


class TestBootstrap:
    def matches(self, hits: list[bool]) -> Matches:
        truth = [sample([BOX], [0], name=str(i)) for i in range(len(hits))]
        guesses = [found([BOX] if hit else [FAR], [0], [0.9]) for hit in hits]
        return Matches.of(truth, guesses, 1)

    def difference(self, other: list[bool], photographs: list[object], **settings: int) -> Difference:
        both = {"raw": self.matches([True, False] * (len(other) // 2)), "other": self.matches(other)}
        return paired_bootstrap(both, "raw", photographs, **settings)["other"][0]

    def test_the_same_is_within_noise(self) -> None:
        same = self.difference([True, False] * 10, list(range(20)))
        assert (same.value, same.low, same.high, same.verdict) == (0, 0, 0, "within noise")

    def test_better_and_worse(self) -> None:
        better = self.difference([True] * 20, list(range(20)))
        assert better.verdict == "better"
        assert 0 < better.low < better.value < better.high < 1
        assert self.difference([False] * 20, list(range(20))).verdict == "worse"

    def test_one_image_in_twenty_is_noise(self) -> None:
        hits = [True, False] * 10
        hits[1] = True
        one = self.difference(hits, list(range(20)))
        assert one.value > 0
        assert one.low == 0  # drawn in about two of three resamples
        assert one.verdict == "within noise"

    def test_lights_of_a_photograph_are_drawn_together(self) -> None:
        hits = ([True] * 4 + [True, False] * 8) * 2
        apart = self.difference(hits, list(range(40)), resamples=500)
        together = self.difference(hits, [i // 4 for i in range(40)], resamples=500)
        assert apart.value == together.value
        assert apart.high - apart.low < together.high - together.low

    def test_few_photographs_say_nothing(self) -> None:
        one = self.difference([True] * 2, ["a", "a"])
        nine = self.difference([True] * 18, [i // 2 for i in range(18)])
        for few in (one, nine):
            assert few.value > 0
            assert np.isnan([few.low, few.high]).all()
            assert few.verdict == "too few images"
        assert self.difference([True] * 20, [i // 2 for i in range(20)]).verdict == "better"

    def test_nothing_to_judge(self) -> None:
        assert Difference(*[float("nan")] * 3).verdict == ""

    def test_is_repeatable(self) -> None:
        hits = [True] * 6 + [True, False] * 7
        first, second = (self.difference(hits, list(range(20)), resamples=50) for _ in range(2))
        assert first == second
        assert self.difference(hits, list(range(20)), resamples=50, seed=1) != first
