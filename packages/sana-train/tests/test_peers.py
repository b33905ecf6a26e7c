import pytest

from sana_train.peers import PeerError, Peers


def fail():
    raise ValueError("no")


def test_one_process_agrees_with_itself():
    peers = Peers()
    assert (peers.rank, peers.count) == (0, 1)
    assert peers.agree(lambda: 2, lambda everyone: [10 * number for number in everyone]) == 20
    assert peers.first(lambda: "answer") == "answer"


@pytest.mark.parametrize(
    "step",
    [
        lambda peers: peers.agree(fail, lambda everyone: everyone),
        lambda peers: peers.agree(lambda: 1, lambda everyone: fail()),
        lambda peers: peers.everywhere(fail),
        lambda peers: peers.first(fail),
    ],
)
def test_a_failure_keeps_its_words_and_its_cause(step):
    with pytest.raises(PeerError, match=r"^ValueError: no$") as raised:
        step(Peers())
    assert isinstance(raised.value.__cause__, ValueError)


def test_a_full_disk_is_named_behind_what_torch_makes_of_it():
    def write():
        try:
            raise OSError(28, "No space left on device")
        except OSError:
            raise RuntimeError("unexpected pos 704 vs 598")  # noqa: B904  as torch.save does

    with pytest.raises(PeerError, match=r"OSError: .* No space left on device"):
        Peers().everywhere(write)
