"""The form of a text that can be said."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.shared.numbers_mandarin import cardinal
from components.shared.speakable import speakable


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Dr. Smith paid $3.50 for 12%.", "doctor smith paid three dollars and fifty cents for twelve percent."),
        (
            "At 3:45 — e.g. the BBC's “café”, 1984!",
            "at three forty five, for example the b b c's cafe, nineteen eighty four!",
        ),
        ("1,234 of them... I'll go?!", "one thousand two hundred thirty four of them. i'll go?"),
        ("“Café” NASA & the 21st a_b\tline\nbreak", "cafe nasa and the twenty first a b line break"),
        ("😀 — …", ""),
        ("", ""),
    ],
)
def test_english_is_written_as_it_is_said(text, said):
    assert speakable(text, "en") == said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("他在1998年花了￥3.5万，占12.5%。", "他在一九九八年花了三点五万元,占百分之十二点五."),
        ("现在3:05，气温-5℃！", "现在三点零五分,气温负五摄氏度!"),
        ("我有2个，第2次，1/2。", "我有两个,第二次,二分之一."),
        ("我用 iPhone 打电话", "我用 iphone 打电话"),
    ],
)
def test_mandarin_is_written_as_it_is_said(text, said):
    assert speakable(text, "zh") == said


@pytest.mark.parametrize(
    ("digits", "said"),
    [
        ("0", "零"),
        ("10", "十"),
        ("110", "一百一十"),
        ("1001", "一千零一"),
        ("20000", "两万"),
        ("20300", "两万零三百"),
        ("105000", "十万五千"),
        ("100000001", "一亿零一"),
        ("1000010000", "十亿零一万"),
        ("123456789012345678", "一二三四五六七八九零一二三四五六七八"),
    ],
)
def test_mandarin_numbers(digits, said):
    assert cardinal(digits) == said


@given(st.text(), st.sampled_from(["en", "zh"]))
def test_any_text_becomes_one_clean_line(text, language):
    said = speakable(text, language)
    assert said == said.strip() and "\n" not in said and "  " not in said
    assert not any(c in said for c in '"()[]{}<>|#*')
    assert (said == "") == (not any(c.isalnum() for c in said))
