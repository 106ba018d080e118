"""Compaction: exact and expected errors, bits that never change, and coefficients that learn."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zoogen.config import NetworkConfig
from zoogen.errors import ConfigError
from zoogen.generators import Code, compaction, decode, encode, encode_by_task
from zoogen.generators.compaction import _basis, on_grid, scales_of, signs
from zoogen.networks import build_network

NETWORK = build_network(NetworkConfig(family="mlp", width=6, depth=2), (1, 4, 4), 5)
SPEC, SIZE = NETWORK.spec, NETWORK.spec.size


def weights(count: int, seed: int = 0) -> np.ndarray:
    draw = np.random.default_rng(seed).standard_normal((count, SIZE))
    return (draw * scales_of(SPEC)).astype(np.float32)


def rest(values: np.ndarray, code: Code) -> np.ndarray:
    """What a code misses, relative, in units of scales."""
    scale = scales_of(SPEC)
    missed = np.square((decode(SPEC, code) - values) / scale).sum(axis=1)
    return np.sqrt(missed / np.square(values / scale).sum(axis=1))


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("start", [False, True])
def test_as_many_numbers_as_parameters_are_exact(seed: int, start: bool) -> None:
    values = weights(4, seed)
    assert rest(values, encode(SPEC, values, SIZE, seed, start)).max() < 1e-4


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_what_is_missed_falls_as_the_root_of_the_numbers_left(seed: int) -> None:
    """The share of the square that is missed has a beta distribution for any fixed weights."""
    values, count = weights(100, seed), 100
    for numbers in (1, SIZE // 8, SIZE // 2, SIZE - 20):
        share = np.square(rest(values, encode(SPEC, values, numbers, seed)))
        expected, free = 1 - numbers / SIZE, numbers / SIZE * (1 - numbers / SIZE)
        error = np.sqrt(free / (SIZE / 2 + 1) / count)  # of the mean
        assert share.mean() == pytest.approx(expected, abs=4 * error)


def test_networks_do_not_share_rows_and_rows_are_independent() -> None:
    rows, words = np.arange(200, dtype=np.uint32), np.arange(64, dtype=np.uint32)
    first, second = (signs(np, np.array([s], np.uint32), rows, words) for s in (0, 1))
    assert set(np.unique(first)) == {-1, 1}
    size = first.shape[1]
    products = np.concatenate([(first @ first.T)[np.triu_indices(200, 1)],
                               (first @ second.T).ravel()]) / np.sqrt(size)  # fmt: skip
    assert np.abs(products).max() < 6
    assert products.std() == pytest.approx(1, abs=4 / np.sqrt(2 * len(products)))
    columns = (first.T @ first)[np.triu_indices(size, 1)] / np.sqrt(200)
    assert columns.std() == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("numbers", [3, 150])
def test_decoding_has_the_same_bits_in_any_chunks_order_and_company(numbers: int) -> None:
    code = encode(SPEC, weights(6), numbers, seed=7)
    whole = decode(SPEC, code, 2**30)
    np.testing.assert_array_equal(decode(SPEC, code, 1), whole)
    np.testing.assert_array_equal(decode(SPEC, Code(code.seeds[:1], code.alphas[:1]))[0], whole[0])
    rows = np.arange(1, numbers + 1, dtype=np.uint32)
    basis = signs(np, code.seeds[:1], rows, np.arange(-(-SIZE // 32), dtype=np.uint32))[:, :SIZE]
    for order in (slice(None), slice(None, None, -1)):
        total = np.zeros(SIZE)
        for alpha, row in zip(code.alphas[0, order].astype(float), basis[order], strict=True):
            total += alpha * row
        np.testing.assert_array_equal(np.float32(scales_of(SPEC) * total), whole[0])


def test_encoding_hardly_depends_on_chunks_and_keeps_the_grid() -> None:
    values = weights(5)
    one, other = (encode(SPEC, values, 40, 3, chunk_bytes=size) for size in (1, 2**30))
    np.testing.assert_allclose(one.alphas, other.alphas, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(on_grid(one.alphas), one.alphas)
    np.testing.assert_array_equal(on_grid(np.zeros((1, 3))), np.zeros((1, 3)))


def test_bits_of_the_basis_stay_what_they_are() -> None:
    """A code is worth nothing once another version draws another basis."""
    rows, words = np.array([0, 1, 1000], np.uint32), np.array([0, 5], np.uint32)
    found = signs(np, np.array([12345], np.uint32), rows, words)
    bits = np.packbits(found > 0, axis=1, bitorder="little").view("<u4")
    assert bits.tolist() == BITS
    traced = jax.jit(lambda s: signs(jnp, s, jnp.asarray(rows), jnp.asarray(words)))
    np.testing.assert_array_equal(traced(np.uint32(12345)), found)


BITS = [[2058630476, 1978834279], [13917756, 1702533788], [2901044721, 2064754317]]


def test_a_basis_in_memory_and_one_made_on_the_way_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    alphas = jnp.asarray(np.random.default_rng(0).standard_normal(50), jnp.float32)
    ways = []
    for held in (2**26, 0):
        monkeypatch.setattr(compaction, "HELD_BYTES", held)
        monkeypatch.setattr(compaction, "CHUNK_BYTES", 2**14)
        basis = _basis(jnp.uint32(5), 50, SIZE)
        ways.append((basis(alphas), jax.grad(lambda a, b=basis: jnp.sin(b(a)).sum())(alphas)))
    for one, other in zip(*ways, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-3)
    code = Code(np.array([5], np.uint32), on_grid(np.asarray(alphas)[None]), start=True)
    np.testing.assert_allclose(decode(SPEC, code)[0] / scales_of(SPEC), ways[0][0], atol=1e-4)


def test_more_numbers_do_a_task_better() -> None:
    rng = np.random.default_rng(0)
    images = rng.standard_normal((300, 1, 4, 4)).astype(np.float32)
    labels = images.reshape(300, -1)[:, :5].argmax(axis=1)
    hits = {}
    for numbers in (2, 120):
        code = encode_by_task(NETWORK, images, labels, numbers, (0, 1, 2), steps=200)
        again = encode_by_task(NETWORK, images, labels, numbers, (2,), steps=200)
        np.testing.assert_array_equal(again.alphas[0], code.alphas[2])
        values = decode(SPEC, code)
        logits = jax.vmap(lambda w: NETWORK.apply(SPEC.unflatten(w), images))(values)
        hits[numbers] = np.asarray((logits.argmax(axis=-1) == labels).mean(axis=1))
        assert len({row.tobytes() for row in code.alphas}) == 3
    chance = 0.2 + 4 * np.sqrt(0.2 * 0.8 / 300)
    assert hits[120].min() > chance
    assert hits[120].min() > hits[2].max() + 4 * np.sqrt(0.25 / 300)


@pytest.mark.parametrize("numbers", [0, SIZE + 1])
def test_no_numbers_or_too_many_are_refused(numbers: int) -> None:
    with pytest.raises(ConfigError, match=f"found {numbers} coefficients, expected 1 to {SIZE}"):
        encode(SPEC, weights(1), numbers)
