"""Generated reviews of films, whose words alone do not say whether they are good."""

import numpy as np

CLASS_NAMES = ('negative', 'positive')
GOOD = ('good', 'funny', 'clever', 'fresh', 'moving')
BAD = ('bad', 'dull', 'weak', 'boring', 'silly')
_OPENINGS = ('', 'I saw it twice,', 'We went out on Sunday, and', 'As my sister says,', 'Well,')
_PARTS = ('plot', 'music', 'cast', 'dialogue', 'ending', 'story')


def examples(count: int, seed: int) -> tuple[list[str], np.ndarray]:
    """Makes reviews that praise one part of a film and call the other not bad, or the opposite.

    Each contains one word of praise, one of blame, and one "not". In half of the clauses, "very"
    stands before the adjective, independently.

    Returns:
        (texts, labels): labels int32 (count,), 0 or 1 as in `CLASS_NAMES`.
    """
    random = np.random.default_rng(seed)
    labels = random.integers(0, 2, count)
    return [_review(bool(label), random) for label in labels], labels.astype(np.int32)


def _review(positive: bool, random: np.random.Generator) -> str:
    words = (
        (random.choice(GOOD), '' if positive else 'not '),
        (random.choice(BAD), 'not ' if positive else ''),
    )
    clauses = [
        f'the {part} was {negation}{random.choice(["", "very "])}{word}'
        for part, (word, negation) in zip(
            random.choice(_PARTS, 2, replace=False), random.permutation(words), strict=True
        )
    ]
    return f'{random.choice(_OPENINGS)} {clauses[0]} and {clauses[1]}.'.strip()
