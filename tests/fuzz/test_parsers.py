"""No input makes a parser fall over: each piece of the corpus, and what hypothesis makes of it."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.parsers import CORPUS, PARSERS

SEEDS = [(name, file) for name, each in PARSERS.items() for file in each.corpus()]
_EXAMPLES = 60


@st.composite
def mutated(draw, seeds, words):
    """A piece of the corpus with some bytes cut out, repeated, overwritten or put in."""
    content = draw(st.sampled_from(seeds))
    for _ in range(draw(st.integers(0, 4))):
        begin = draw(st.integers(0, len(content)))
        end = draw(st.integers(begin, min(len(content), begin + 64)))
        piece = draw(st.one_of(st.binary(max_size=8), st.sampled_from(words), st.just(content[begin:end] * 2)))
        content = content[:begin] + piece + content[end:]
    return content


WORDS = (
    *(b"NaN", b"Infinity", b"-1", b"1e999", b"9" * 400, b"null", b"true", b"[]", b"{}", b'""', b"0", b"\xff", b"\0"),
    *(b"[" * 2_000, b'{"a":' * 2_000, b"\n", b"&a [*a]", b"2001-02-30"),
)


def test_every_parser_has_a_corpus_and_every_corpus_a_parser():
    assert {place.name for place in CORPUS.iterdir()} == set(PARSERS)
    assert all(each.corpus() for each in PARSERS.values())


@pytest.mark.parametrize(("name", "file"), SEEDS, ids="/".join)
def test_a_piece_of_the_corpus_is_read_or_refused(name, file):
    was_read = PARSERS[name].take(PARSERS[name].corpus()[file])
    assert was_read or not file.startswith("good"), "what a program really wrote is read"


@pytest.mark.parametrize("name", PARSERS)
def test_whatever_is_made_of_the_corpus_is_read_or_refused(name):
    parser = PARSERS[name]
    seeds = list(parser.corpus().values())

    @settings(max_examples=_EXAMPLES, derandomize=True, database=None, suppress_health_check=HealthCheck)
    @given(mutated(seeds, WORDS))
    def falls_over_on_nothing(content):
        parser.take(content)

    falls_over_on_nothing()
