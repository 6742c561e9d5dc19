"""A small made-up language, written as CoNLL-U, that a tagger can learn in seconds."""

import random
from pathlib import Path

NOUNS = [f"noun{i}" for i in range(12)]
VERBS = [f"verb{i}" for i in range(8)]
# "like" is a verb after a noun and a preposition after a verb: context is needed.


def write_corpus(path: Path, n_sentences: int, seed: int = 0, clauses: int = 1, names: float = 0.0) -> Path:
    """Writes sentences such as "the noun3 verb1 like a noun5", up to so many of them as one.

    Args:
        path: of the file.
        n_sentences: how many.
        seed: of the choice.
        clauses: at most, in a sentence.
        names: part of the sentences that end with a noun which occurs nowhere else.
    """
    draw = random.Random(seed)
    blocks = []
    for number in range(n_sentences):
        words: list[tuple[str, str]] = []
        for _ in range(draw.randint(1, clauses) if clauses > 1 else 1):
            words += [("the", "DET"), (draw.choice(NOUNS), "NOUN")]
            words += draw.choice([[(draw.choice(VERBS), "VERB"), ("like", "ADP")], [("like", "VERB")]])
            words += [(draw.choice(["a", "the"]), "DET"), (draw.choice(NOUNS), "NOUN")]
            words += [(".", "PUNCT")] * draw.randint(0, 1)
        if names and draw.random() < names:
            words += [("a", "DET"), (f"name{number}", "NOUN")]
        rows = [f"{i}\t{w}\t{w}\t{t}\t_\t_\t_\t_\t_\t_" for i, (w, t) in enumerate(words, start=1)]
        blocks.append("\n".join(rows) + "\n")
    path.write_text("\n".join(blocks) + "\n", encoding="utf-8")
    return path
