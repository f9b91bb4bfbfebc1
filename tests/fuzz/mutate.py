"""Mutations of texts and bytes: what hands, editors, copies and attackers do to files."""

WORDS = (
    "",
    " ",
    "\n",
    "\t",
    "\0",
    "~",
    "null",
    "true",
    "yes",
    "-1",
    "0",
    "010",
    "1:30",
    "0x10",
    "1e400",
    "-1e400",
    ".nan",
    ".inf",
    "99999999999999999999",
    "0.1.2",
    "2020-13-45",
    "2020-01-01",
    "[]",
    "{}",
    "[[]]",
    "{a: {b: c}}",
    "- a",
    "? x",
    ": y",
    "!!int x",
    "!!python/object:os.system x",
    "!!binary =",
    "!!timestamp x",
    "!x y",
    "&a [*a]",
    "*a",
    "<<: *a",
    "&a {<<: *a}",
    "|",
    ">",
    "%YAML 9.9",
    "---",
    "...",
    "#",
    "'",
    '"',
    "`",
    "@",
    "a: b: c",
    "\ufeff",
    "\u2028",
    "\ud7ff",
    "\U0001f697",
    "é",
    "$x^2$",
    "s3://x/y",
    "file:///etc/passwd",
    "../..",
    "/",
    "~root",
    "con",
    "a" * 300,
    "9" * 5000,
    "[" * 200,
    "{" * 200,
    "[" * 5000,
    "- " * 3000,
    "a:\n " * 300,
    "images",
    "masks",
    "unet",
    "dice",
    "0-65535",
    "9-3",
)
"""What is put into texts, beside parts of the text itself."""
BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join([f'*{chr(97 + n)}'] * 9)}]\n" for n in range(9)
)
"""Nested aliases: few letters that stand for 9^10 values."""


def mutate_text(text, rng):
    """Return a text with one to four changes."""
    for _ in range(rng.randint(1, 4)):
        text = rng.choice(TEXT_CHANGES)(text, rng)
    return text


def mutate_bytes(data, rng):
    """Return bytes with one to four changes."""
    for _ in range(rng.randint(1, 4)):
        data = rng.choice(BYTE_CHANGES)(data, rng)
    return data


def _span(content, rng):
    first = rng.randint(0, len(content))
    return first, min(len(content), first + rng.choice([0, 1, 2, 5, 20, 100]))


def _replace(text, rng):
    first, last = _span(text, rng)
    return text[:first] + rng.choice(WORDS) + text[last:]


def _remove(text, rng):
    first, last = _span(text, rng)
    return text[:first] + text[last:]


def _repeat(text, rng):
    first, last = _span(text, rng)
    return text[:last] + text[first:last] * rng.choice([1, 2, 30]) + text[last:]


def _value(text, rng):
    """Replace what follows a colon in one line."""
    lines = text.split("\n")
    places = [number for number, line in enumerate(lines) if ": " in line]
    if not places:
        return _replace(text, rng)
    number = rng.choice(places)
    lines[number] = f"{lines[number].partition(': ')[0]}: {rng.choice(WORDS)}"
    return "\n".join(lines)


def _swap(text, rng):
    lines = text.split("\n")
    rng.shuffle(lines)
    return "\n".join(lines)


def _indent(text, rng):
    lines = text.split("\n")
    number = rng.randrange(len(lines))
    lines[number] = rng.choice(["  ", "\t", "- ", ""]) + lines[number].lstrip()
    return "\n".join(lines)


def _bomb(text, rng):
    return f"{BOMB}\n{text}\nclasses: *{rng.choice('abcdefghij')}\n" if rng.random() < 0.1 else _replace(text, rng)


TEXT_CHANGES = (_replace, _remove, _repeat, _value, _value, _swap, _indent, _bomb)


def _flip(data, rng):
    changed = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 16])):
        if changed:
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _number(data, rng):
    """Write a number where headers have sizes and offsets."""
    width = rng.choice([1, 2, 4, 8])
    number = rng.choice([0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 2**64 - 1]) % 256**width
    first = rng.randint(0, max(0, min(len(data), rng.choice([64, 256, len(data)])) - width))
    return data[:first] + number.to_bytes(width, rng.choice(["big", "little"])) + data[first + width :]


def _cut(data, rng):
    return data[: rng.randint(0, len(data))]


def _insert(data, rng):
    first = rng.randint(0, len(data))
    return data[:first] + rng.randbytes(rng.choice([1, 4, 64])) + data[first:]


def _drop(data, rng):
    first, last = _span(data, rng)
    return data[:first] + data[last:]


def _zero(data, rng):
    first, last = _span(data, rng)
    return data[:first] + bytes(last - first) + data[last:]


BYTE_CHANGES = (_flip, _flip, _number, _number, _cut, _insert, _drop, _zero, _repeat)
