import pytest

from sana_train.growth import INITS, arrangement
from sana_train.growth.arrangement import check_target, first_places


@pytest.mark.parametrize(
    ("init", "sources"),
    [
        ("partial_preservation", (0, 1, 2, None, None, None, None, None)),
        ("interleaved", (0, 0, 0, 1, 1, 1, 2, 2)),
        ("cyclic", (0, 1, 2, 0, 1, 2, 0, 1)),
        ("block_replication", (0, 0, 0, 1, 1, 1, 2, 2)),
    ],
)
def test_an_init_says_where_each_block_begins(init, sources):
    assert arrangement(init, kept=3, depth=8) == sources


@pytest.mark.parametrize("init", INITS)
def test_every_kept_block_stays_once_and_in_order(init):
    sources = arrangement(init, kept=18, depth=60)
    places = first_places(sources)
    assert [sources[place] for place in places] == list(range(18))
    assert list(places) == sorted(places)


def test_an_unknown_init_names_the_known_ones():
    with pytest.raises(ValueError, match="'random'; it must be one of partial_preservation, interleaved"):
        arrangement("random", kept=3, depth=8)


@pytest.mark.parametrize("depth", [19, 20])
def test_a_target_that_is_not_deeper_is_refused(depth):
    with pytest.raises(ValueError, match=f"depth is {depth} and the model has 20 blocks.*at least 21, or prune"):
        check_target(depth, source=20, drop_last=2)


@pytest.mark.parametrize("drop_last", [-1, 20])
def test_dropping_must_leave_a_block(drop_last):
    with pytest.raises(ValueError, match=f"drop_last is {drop_last} .* 0 to 19"):
        check_target(60, source=20, drop_last=drop_last)


def test_a_fractional_depth_is_refused():
    with pytest.raises(TypeError, match=r"depth is 30\.0; it must be a whole number"):
        check_target(30.0, source=20, drop_last=2)
