"""Services by their URLs, and what copies and pickles of their clients take along."""

import copy
import pickle

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.svm import SVC

from dqk import FidelityKernel, gram
from dqk.errors import InvalidInputError, UnsupportedError
from dqk.kernels.feature_maps import zz_feature_map
from dqk.qpu import QPUClient, QPUError
from dqk.qpu.backend import QPUBackend
from dqk.qpu.pool import QPUPool
from dqk.qpu.records import TOKEN_VARIABLE
from tests.qpu.conftest import ALICE
from tests.qpu.server import Server

MAP = zz_feature_map(2)
X = np.random.default_rng(0).uniform(-1, 1, (4, 2))


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("http://127.0.0.1:8000/", "http://127.0.0.1:8000"),
        ("HTTP://QPU.Example.org:80//", "http://qpu.example.org"),
        ("https://qpu.example.org:443/Device/", "https://qpu.example.org/Device"),
        ("https://qpu.example.org:80", "https://qpu.example.org:80"),
        ("http://[::1]:8000", "http://[::1]:8000"),
    ],
)
def test_a_url_is_written_in_one_way(given: str, url: str) -> None:
    assert QPUClient(given).url == url
    assert QPUPool([given]).names == QPUPool([f"qpu:{given}"]).names == [f"qpu:{url}"]
    assert QPUBackend(given).name == f"qpu:{url}"


@pytest.mark.parametrize("wrong", ["http://", "http://a:b", "http://a:99999", "ftp://a", "", None, "http://a?b=1"])
def test_what_is_no_url(wrong) -> None:
    with pytest.raises(InvalidInputError, match="expected one such as http://127"):
        QPUClient(wrong)


def test_a_url_with_a_password_is_refused_and_not_shown() -> None:
    with pytest.raises(InvalidInputError, match=f"expected one without.*{TOKEN_VARIABLE}") as caught:
        QPUPool(["https://me:hunter2@qpu.example.org"])
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("http://a:1", "http://a:1/"),
        ("http://a:1", "qpu:http://A:1"),
        ("http://a", "http://a:80"),
        ("http://localhost:1", "http://127.0.0.1:1"),
        ("http://LOCALHOST:1/", "http://[::1]:1"),
        ("http://localhost", "http://127.0.0.1:80/"),
        ("pennylane:default.qubit", "pennylane:default.qubit"),
    ],
)
def test_a_processor_that_is_named_twice(first: str, second: str) -> None:
    with pytest.raises(InvalidInputError, match="named twice") as caught:
        QPUPool(["http://other:1", first, second])
    assert f"{first} and {second} are the same processor" in str(caught.value)


def test_processors_that_only_look_alike() -> None:
    names = ["http://a:1", "http://a:2", "http://a", "https://a", "http://a/one", "http://a/One", "http://127.0.0.10:1"]
    assert len(QPUPool([*names, "http://127.0.0.1:1", "http://localhost.example.org:1"]).names) == 9


def used(server: Server) -> FidelityKernel:
    """A kernel whose backend has a connection, and a token that the environment does not have."""
    kernel = FidelityKernel(MAP, QPUBackend(server.url, ALICE, timeout_s=7.0), shots=10)
    gram(kernel, X, seed=1)
    return kernel


def test_copies_of_a_used_kernel_measure(server: Server, monkeypatch) -> None:
    """scikit-learn's `clone` makes deep copies."""
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    kernel = used(server)
    expected = gram(kernel, X, seed=1)
    for one in (copy.deepcopy(kernel), clone(SVC(kernel=kernel)).kernel, copy.copy(kernel)):
        assert np.array_equal(gram(one, X, seed=1), expected)
    backend = copy.deepcopy(kernel.backend)
    assert backend.client is not kernel.backend.client and backend.client.timeout_s == 7.0
    backend.close()
    assert np.array_equal(gram(kernel, X, seed=1), expected)  # the first one's connection is its own


def test_pickles_of_a_used_kernel_have_no_token_and_take_it_from_the_environment(server: Server, monkeypatch) -> None:
    """So joblib's and others' processes have it where they inherit the environment."""
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    kernel = used(server)
    expected, pickled = gram(kernel, X, seed=1), pickle.dumps(kernel)
    assert ALICE.encode() not in pickled
    with pytest.raises(QPUError, match=f"the environment variable {TOKEN_VARIABLE}"):
        pickle.loads(pickled).backend.client.calibration()
    monkeypatch.setenv(TOKEN_VARIABLE, ALICE)
    found = pickle.loads(pickled)
    assert np.array_equal(gram(found, X, seed=1), expected)
    assert (found.backend.client.url, found.backend.client.timeout_s) == (server.url, 7.0)


def test_nothing_that_is_printed_shows_the_token(server: Server) -> None:
    kernel = used(server)
    shown = [repr(kernel), str(kernel), repr(kernel.backend), repr(kernel.backend.client), kernel.backend.name]
    assert not any(ALICE in text for text in shown)
    assert repr(kernel.backend) == f"QPUBackend('{server.url}')"


def test_a_pool_is_not_pickled_and_says_what_to_do_instead() -> None:
    with pytest.raises(UnsupportedError, match=r"gram\(kernel, X, executor=pool\)$"):
        pickle.dumps(QPUPool(["http://127.0.0.1:9"]))
