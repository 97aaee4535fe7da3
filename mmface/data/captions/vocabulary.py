"""Word lists for the rules, the support check and the shortening of captions."""

from __future__ import annotations


def words(text: str) -> frozenset[str]:
    """The words of ``text``."""
    return frozenset(text.split())


# Spanish, Portuguese, Italian, French, German and Dutch words that are rare in English.
FOREIGN = words(
    """el los las del que con una uno para pelo ojos mujer hombre y muy cabello joven um uma com não cabelo olhos mulher
    homem e il lo gli della dello che donna uomo capelli occhi sono ha le les des du avec et est une un femme homme
    cheveux yeux aux dans der das und mit ein eine einer einem einen ist haare haar augen frau mann von het een van
    vrouw met ogen zijn op"""
)

NEGATIONS = words("no not without never none neither nor isn't doesn't aren't hasn't")

# Function words: they state nothing about a face, so they need no support.
FUNCTION = NEGATIONS | words(
    """a an the and or but with while who whose which that this these there of in on at to from by for as into over
    under is are was be been being has have had having does do it its they their them one both each all some any very
    quite slightly rather more most also just so than then up down out off around about near
    person face portrait photo photograph picture image shot someone individual subject"""
)

# A phrase cannot end with one of these words.
DANGLING = words(
    """a an the and or but nor with without of in on at to from by for as that which who whose while is are was were
    has have her his their its very"""
)

FEMALE = words("she her hers herself woman women female girl lady")
MALE = words("he his him himself man men male boy gentleman")
