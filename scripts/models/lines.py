"""Writes tests/data/lines.txt: 2,000 texts that are hard on a tokenizer, one JSON string a line.

All of it is made up here, the same in every run.
"""

# ruff: noqa: RUF001  # characters that look like others are what is wanted

import json
import random
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path

TARGET = Path(__file__).parents[2] / "tests" / "data" / "lines.txt"

WORDS = {
    "english": "the sea was calm and a small boat came home with lanterns while nobody's dog "
    "didn't bark we've they'll I'm you'd O'Neill re-entry state-of-the-art Don't IT'S can't've",
    "german": "die Straße führt über den grünen Hügel zum alten Bahnhof während Kinder Äpfel "
    "pflücken Donaudampfschifffahrtsgesellschaft GROSSE Übung",
    "french": "l'été dernier où l'on a mangé près du château çà et là naïve cœur garçon «merci» "
    "aujourd'hui qu'il s'agisse d'œufs",
    "spanish": "¿dónde está el niño que corrió por la montaña? ¡qué año tan pequeño! pingüino",
    "polish": "zażółć gęślą jaźń w Szczebrzeszynie chrząszcz brzmi źdźbło łódź",
    "turkish": "İstanbul'da ışık değişti çocuk gülümsüyor ağaç şöyle ığdır",
    "vietnamese": "một con thuyền nhỏ trở về trong đêm yên tĩnh người đánh cá nghĩ rằng",
    "russian": "маленькая лодка вернулась домой ночью и никто её не ждал объявление Ёлка",
    "greek": "η μικρή βάρκα γύρισε στο λιμάνι ὅταν ἦλθεν ἡ νύξ ΣΊΣΥΦΟΣ σίσυφος",
    "hebrew": "הסירה הקטנה חזרה הביתה בלילה שָׁלוֹם",
    "arabic": "عاد القارب الصغير إلى البيت ليلاً اللُّغَةُ ٣٤٥ السلام",
    "hindi": "छोटी नाव रात में घर लौटी क्षत्रिय विद्यार्थी १२३ हिन्दी",
    "bengali": "ছোট নৌকা রাতে বাড়ি ফিরল ১২৩",
    "tamil": "சிறிய படகு இரவில் வீடு திரும்பியது",
    "thai": "เรือลำเล็กกลับบ้านในเวลากลางคืน ๑๒๓",
    "georgian": "პატარა ნავი სახლში დაბრუნდა",
    "armenian": "փոքրիկ նավակը տուն վերադարձավ",
    "amharic": "ትንሿ ጀልባ ወደ ቤት ተመለሰች፡፡ ፻",
    "chinese": "小船在夜里静静地回家。 海面很平静， 没有人等它！ 一二三 〇",
    "japanese": "小さな船が夜に帰ってきた。 ランプの光が揺れている。 ﾊﾝｶｸ カタカナー 々",
    "korean": "작은 배가 밤에 집으로 돌아왔다. 등불이 흔들린다 ㅋㅋㅋ",
    "gothic": "𐌰𐌹𐌽𐍃 𐌱𐌰𐍄𐍃 𝔣𝔯𝔞𝔨𝔱𝔲𝔯 𝒜𝓁𝓅𝒽𝒶 𠮷野家",
}
CODE = (
    'def {a}({b}: int = {n}) -> str:\n    return f"{{{b}!r:>{n}}}"  # {w}',
    "for (int {a} = 0; {a} < {n}; ++{a}) {{ {b}[{a}] += 0x{h}; }}",
    "const {a} = async ({b}) => await fetch(`/{w}?id=${{{b}}}`).then(r => r.json());",
    "SELECT {a}, COUNT(*) FROM {b} WHERE {w} >= {n}.50 GROUP BY 1;",
    '\t\t<div class="{a}-{b}">\n\t\t\t{w} &amp; co.\n\t\t</div>',
    "fn {a}<'s, T: Into<{b}>>(x: &'s T) -> Option<&'s str> {{ None }}",
    "{a}:\n  - name: {w}\n    args: [\"--{b}={n}\", '{h}']",
    "if ! grep -qE '^{a}[[:space:]]+{b}$' \"${{HOME}}/{w}\"; then exit {n}; fi",
    "#define {a}({b}) \\\n    do {{ {b} ^= ~({n}u << 3); }} while (0)\r\n",
    "let {a}_{b} = {w} |> List.map (fun x -> x * {n}) // {h}",
    "assert {a}['{b}'][{n}:-1] == \"\\u00{h}\\n\"; print({w!s})",
    "<|im_start|>{a}\n{b}<|im_end|>\n<|endoftext|>",
    "<fim_prefix>{a}<fim_suffix>{b}<fim_middle> >>TITLE<<{w} [PAD] <s></s> <unk>",
    "### Instruction:\n{w} {n}\n\n### Response:\n",
)
EMOJI = """
    🙂 🎉 👩‍👩‍👧‍👦 🏳️‍🌈 👍🏽 🇫🇷🇯🇵 ❤️ ☃ ♟️ 1️⃣ #️⃣ 🧑🏿‍🚀 🫠 🏴󠁧󠁢󠁳󠁣󠁴󠁿 ⌚ ✂︎ 👁️‍🗨️ 🤦🏼‍♀️ 🥹 ☎
"""
MARKS = "\u0300\u0301\u0308\u0323\u0327\u0338\u20e3\ufe0f\u064e\u0651\u093f\u0e31\u3099\u200d\u200c"
SPACES = [" ", "  ", "   ", "\t", "\n", "\r\n", "\r", "\x0b", "\x0c", "\x85", "\xa0", "\u1680",
          "\u2002", "\u2003", "\u2009", "\u200b", "\u2028", "\u2029", "\u202f", "\u3000", "\ufeff",
          " " * 7, " " * 24, " " * 25, " " * 53, "\n\n\n", "\t\t\t\t"]  # fmt: skip
NUMBERS = ("{n}", "{n}{n}{n}", "{n}.{h}", "0x{h}ff", "1,{n},000", "-{n}e+{n}", "{n}%", "${n}.99",
           "v{n}.{n}", "{n}-{n:02}-{n:02}T{n:02}:59Z", "½{n}¾", "x²{n}³", "Ⅻ{n}ⅷ", "①{n}⑳", "٣٤{n}",
           "१२{n}", "{n}abc{n}", " {n}", "  {n}", "a {n}b  {n} ", "１２{n}", "𝟙𝟚{n}",
           "{n}\n{n}")  # fmt: skip
SYMBOLS = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~¡¿§¶•–—“”‘’…€£¥©®™±×÷≠∞→⇒∀∃∑√"


def make_lines() -> list[str]:
    source = random.Random(20230607)
    kinds: list[tuple[int, Callable[[random.Random], str]]] = [
        (560, prose), (380, code), (140, emoji), (230, numbers), (150, whitespace),
        (130, combining), (80, control), (150, any_characters), (150, symbols),
    ]  # fmt: skip
    lines = [make(source) for count, make in kinds for _ in range(count)]
    runs = ["a", "word", "ab", " ", "\n", "\t", "=", "-", "0", "7", "é", "я", "中", "🙂", "ก",
            "\u0301", ".", "'s", " x", "\xa0"]  # fmt: skip
    lines += [run * (300 // len(run)) for run in runs]
    lines += ["".join(source.choices("etaoinshrdlu", k=5000)), "a" * 5000]
    lines += ["", "a", " ", "\0", "'", "\ufffd", "\ufffe", "\U0010ffff"]
    source.shuffle(lines)
    return lines


def words(source: random.Random) -> list[str]:
    return WORDS[source.choice(list(WORDS))].split(" ")


def prose(source: random.Random) -> str:
    """A sentence or two."""
    chosen = source.choices(words(source), k=source.randint(1, 16))
    if source.random() < 0.2:
        chosen += source.choices(words(source), k=5)
    text = source.choice([" ", " ", " ", " ", ", ", "  ", ""]).join(chosen)
    text = source.choice([text, text, text, text.upper(), text.title(), text.capitalize()])
    return source.choice(["", "", " ", "\n", "- ", "“"]) + text + source.choice(".!?… \n")


def filled(pattern: str, source: random.Random) -> str:
    name = source.choice
    text = pattern.format(
        a=name(["x", "get_value", "HTTPServer", "i", "größe", "_tmp1"]),
        b=name(["y", "items", "camelCase2", "T", "名前", "self"]),
        w=name(words(source)),
        n=source.randint(0, 10 ** source.randint(1, 6)),
        h=f"{source.randint(16, 255):x}",
    )
    return text


def code(source: random.Random) -> str:
    pieces = [filled(source.choice(CODE), source) for _ in range(source.randint(1, 2))]
    indent = source.choice(["", "", "    ", "\t", " " * 8, " " * 13])
    return "\n".join(indent + piece for piece in pieces)


def emoji(source: random.Random) -> str:
    pieces = source.choices([*EMOJI.split(), *words(source)[:5]], k=source.randint(1, 12))
    return source.choice(["", " "]).join(pieces)


def numbers(source: random.Random) -> str:
    pieces = [filled(source.choice(NUMBERS), source) for _ in range(source.randint(1, 6))]
    return source.choice(["", " ", ", ", "/"]).join(pieces)


def whitespace(source: random.Random) -> str:
    pieces = []
    for _ in range(source.randint(1, 9)):
        pieces.append("".join(source.choices(SPACES, k=source.randint(1, 3))))
        pieces.append(source.choice(["", "a", "word", "7", "12", "!", "'s", "é"]))
    return "".join(pieces)


def combining(source: random.Random) -> str:
    text = prose(source)[:60]
    marked = "".join(
        letter + (source.choice(MARKS) if source.random() < 0.3 else "") for letter in text
    )
    return unicodedata.normalize(source.choice(["NFC", "NFD", "NFKD"]), marked)


def control(source: random.Random) -> str:
    some = [chr(source.choice([*range(32), *range(127, 160), 0xAD, 0x200E, 0x202E, 0x2066]))
            for _ in range(source.randint(1, 10))]  # fmt: skip
    some += source.choices(words(source), k=3)
    source.shuffle(some)
    return "".join(some)


def any_characters(source: random.Random) -> str:
    tops = [0x80, 0x250, 0x800, 0x3000, 0xD800, 0x20000, 0x110000]
    codes = (source.randrange(source.choice(tops)) for _ in range(source.randint(1, 40)))
    return "".join(chr(number) for number in codes if not 0xD800 <= number < 0xE000)


def symbols(source: random.Random) -> str:
    some = [*source.choices(SYMBOLS, k=source.randint(1, 12)), *source.choices(words(source), k=2)]
    some += source.choices(["'s", "'LL", "'re", "''ve", "'", " '", "’s", "$5", "~/", "://"], k=2)
    source.shuffle(some)
    return source.choice(["", "", " "]).join(some)


def main() -> None:
    lines = make_lines()
    TARGET.parent.mkdir(exist_ok=True)
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    TARGET.write_text(text, "utf-8")
    sys.stderr.write(f"{TARGET}: {len(lines)} lines, {len(text.encode())} bytes\n")


if __name__ == "__main__":
    main()
