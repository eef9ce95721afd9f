from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusecache.config import PolicyChoice
from fusecache.errors import UsageError
from fusecache.grammar.policies import choose_policy, parse_policy, parse_threshold, policy_words

WORDS = st.text(st.characters(codec="ascii", categories=["Ll", "Nd"]), min_size=1, max_size=15)


@pytest.mark.parametrize(
    ("text", "choice"),
    [
        ("smq", PolicyChoice("smq")),
        ("SMQ", PolicyChoice("SMQ")),
        ("mq,Random_Threshold=8", PolicyChoice("mq", (("random_threshold", "8"),))),
        ("mq,b=1,a=X=2", PolicyChoice("mq", (("b", "1"), ("a", "X=2")))),
        ("mq,a=1,a=2", PolicyChoice("mq", (("a", "1"), ("a", "2")))),
        ("mq,MIGRATION_THRESHOLD=8,a=1", PolicyChoice("mq", (("a", "1"),), 4096)),
        ("mq,migration_threshold=8,migration_threshold=0", PolicyChoice("mq", (), 0)),
    ],
)
def test_a_policy_and_its_tunables(text: str, choice: PolicyChoice) -> None:
    assert parse_policy(text) == choice


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "policy name ''"),
        ("a-name-much-too-long", "1 to 15 characters"),
        ("mq,", "--policy: '' is not KEY=VALUE"),
        ("mq,a", "--policy: 'a' is not KEY=VALUE"),
        ("mq,=1", "--policy: '=1' is not KEY=VALUE"),
        ("mq,a=", "--policy: 'a=' is not KEY=VALUE"),
        (
            "mq,migration_threshold=many",
            "migration_threshold must be a decimal number of sectors, 0 to 18014398509481983, not 'many'",
        ),
        (
            "mq,migration_threshold=18014398509481984",
            "0 to 18014398509481983, not '18014398509481984'",
        ),
        (
            "mq,migration_threshold=-1",
            "migration_threshold must be a decimal number of sectors, 0 to 18014398509481983, not '-1'",
        ),
    ],
)
def test_what_is_no_policy(text: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_policy(text)
    assert words in str(caught.value)


def test_the_place_is_named() -> None:
    with pytest.raises(UsageError, match="policy: 'a' is not KEY=VALUE"):
        parse_policy("mq,a", "policy")


def test_thresholds_are_sectors_outside_and_bytes_inside() -> None:
    assert parse_threshold("2048") == 1 << 20


@given(WORDS, st.lists(st.tuples(WORDS, WORDS)), st.none() | st.integers(0, 2**40))
def test_words_make_the_same_choice_again(name: str, values: list[tuple[str, str]], sectors: int | None) -> None:
    choice = PolicyChoice(name, tuple(values), None if sectors is None else 512 * sectors)
    name_again, count, *words = policy_words(choice)
    assert int(count) == len(words)
    assert choose_policy(name_again, zip(words[::2], words[1::2], strict=True)) == choice
