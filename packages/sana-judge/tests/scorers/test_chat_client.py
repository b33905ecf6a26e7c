import time

import pytest

from sana_judge.scorers.chat_client import ChatClient, ChatError

KEY = "sk-very-secret"


def client(server, **settings):
    return ChatClient(server.address, **{"api_key": KEY, "timeout": 5.0, "retries": 3, "backoff": 0.01, **settings})


def test_it_posts_with_the_key_and_returns_the_reply(server):
    server.answers = [(200, {"choices": []})]
    assert client(server).complete({"model": "a"}) == {"choices": []}
    (request,) = server.requests
    assert (request.path, request.body) == ("/v1/chat/completions", {"model": "a"})
    assert request.headers["Authorization"] == f"Bearer {KEY}"


def test_the_key_may_lie_in_a_variable_or_be_absent(server, monkeypatch):
    monkeypatch.setenv("OUR_KEY", "from the environment")
    client(server, api_key=None, key_variable="OUR_KEY").complete({})
    client(server, api_key=None, key_variable="NO_SUCH_KEY").complete({})
    assert [request.headers.get("Authorization") for request in server.requests] == [
        "Bearer from the environment",
        None,
    ]


@pytest.mark.parametrize("trouble", [429, 500, 503, "hang up"])
def test_trouble_that_may_pass_is_asked_again(server, trouble):
    server.answers = [(trouble, {}), (trouble, {}), (200, {"fine": True})]
    assert client(server).complete({}) == {"fine": True}
    assert len(server.requests) == 3


def test_trouble_that_does_not_pass_is_an_error_in_the_end(server):
    server.answers = [(503, {"error": "overloaded"})] * 9
    with pytest.raises(ChatError, match=r"answers 503 .*overloaded") as error:
        client(server, retries=2).complete({})
    assert (error.value.status, len(server.requests)) == (503, 3)


def test_a_refusal_is_not_asked_again_and_does_not_tell_the_key(server):
    server.answers = [(401, {"error": f"Incorrect API key provided: {KEY}"})]
    judge = client(server)
    with pytest.raises(ChatError, match=r"answers 401 .*Incorrect API key provided: \*\*\*") as error:
        judge.complete({})
    assert len(server.requests) == 1
    assert KEY not in str(error.value) + repr(error.value) + repr(judge)
    assert error.value.__cause__ is None


def test_the_server_may_say_how_long_to_wait(server):
    server.answers = [(429, {}, {"Retry-After": "0.3"}), (200, {})]
    start = time.monotonic()
    client(server).complete({})
    assert time.monotonic() - start >= 0.3


def test_a_silent_server_is_given_up(server):
    server.answers = [("silence", {})] * 2
    with pytest.raises(ChatError, match="cannot be reached") as error:
        client(server, timeout=1, retries=1).complete({})
    assert len(server.requests) == 2
    assert error.value.passing


def test_a_redirect_does_not_get_the_key(server):
    server.answers = [(307, {}, {"Location": f"{server.address}/elsewhere"}), (200, {})]
    with pytest.raises(ChatError, match="answers 307"):
        client(server).complete({})
    assert len(server.requests) == 1


def test_a_reply_that_is_no_object_is_an_error(server):
    server.answers = [(200, [1]), (200, b"<html>")]
    with pytest.raises(ChatError, match="with a list, not an object"):
        client(server).complete({})
    with pytest.raises(ChatError, match="other than JSON"):
        client(server).complete({})


@pytest.mark.parametrize("address", ["host/v1", "file:///etc/passwd", "https://", "http://me:sk-secret@host/v1"])
def test_an_address_that_is_none_is_refused_without_its_password(address):
    with pytest.raises(ValueError, match="is not the address of a server") as error:
        ChatClient(address)
    assert "sk-secret" not in str(error.value)


@pytest.mark.parametrize("setting", [{"timeout": 0}, {"retries": -1}, {"backoff": -1}])
def test_numbers_that_make_no_sense_are_refused(setting):
    with pytest.raises(ValueError, match="timeout must be above 0"):
        ChatClient("http://host/v1", **setting)
