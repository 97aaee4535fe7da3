"""Stage 1: real answers of captioning models, good and bad, and properties that hold for any text."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmface.config.prompts import PROMPTS
from mmface.data.captions.rules import Reason, Rejection, review

GOOD = (
    "A young woman with long, wavy blond hair smiles warmly at the camera.",
    "An elderly man with a full white beard and deep wrinkles around his eyes looks off to the left.",
    "Her hair is chestnut brown, shoulder-length and slightly curled at the ends.",
    "Male, middle-aged, light skin, short grey hair, blue eyes",
    "gender: female; age: 20s; hair: black, straight; glasses: none; expression: neutral",
    "A close-up of a freckled face with hazel eyes, thin eyebrows and a wide smile.",
    "He can't be older than thirty; a trimmed stubble frames his square jaw.",
    "Soft light from the left, a blurred green background, and a girl in a red knitted hat.",
    "Her eyes cannot be seen behind large round sunglasses.",
    "A person in their 40s (approximately) wearing a hearing aid & silver hoop earrings.",
    "A bald man with no visible facial hair, wearing a dark blue collared shirt.",
    "A woman — perhaps fifty — with a café-au-lait complexion and a touch of rouge.",
    "A young boy with tousled hair laughs with his mouth open, showing two missing teeth.",
    "This woman\u2019s dark hair is pulled back into a tight bun; she wears pearl earrings.",
    "The image shows a man with a receding hairline, rectangular glasses and a slight smile.",
    "Portrait of José, a man with thick black eyebrows and a moustache.",
    "She has brown eyes and she has brown hair.",
    "Oval face, olive skin, brown almond-shaped eyes, arched eyebrows, full lips",
    "smiling, head tilted to the right, no make-up, no accessories, clean-shaven",
    "The Duke's van Dyke beard is grey, and his eyes are pale blue.",
    "Hair: platinum blond, chin-length bob with a fringe. Eyes: green.",
    "A teenage girl with braces looks at something below the camera, her head turned three quarters.",
    "Here, a man with dreadlocks is seen from the side against a brick wall.",
    "A smiling person with very, very long eyelashes and pink lipstick.",
    "A man in three-quarter view, his head turned about 45° to the right.",
    "An infant with rosy cheeks and a wide-eyed, surprised expression.",
    "woman, dark skin, afro, gold nose ring, laughing, bright studio light, 3/4 view",
)

BAD = (
    ("", Reason.EMPTY),
    ("   \n\t ", Reason.EMPTY),
    ("...", Reason.EMPTY),
    ("—", Reason.EMPTY),
    ("A man with a b\x00eard and short hair.", Reason.CONTROL),
    ("A woman with\x1b[0m red hair and a smile.", Reason.CONTROL),
    ("A man with a\u202e grey beard and glasses.", Reason.CONTROL),
    ("A woman\ufeff with long black hair.", Reason.CONTROL),
    ("**A young woman** with long blond hair.", Reason.ARTEFACT),
    ("# Description\nA young woman with long blond hair.", Reason.ARTEFACT),
    ("- Hair: blond\n- Eyes: blue\n- Expression: happy", Reason.ARTEFACT),
    ("1. A woman with red hair.\n2. She smiles.", Reason.ARTEFACT),
    ("```\nA man with a beard and glasses\n```", Reason.ARTEFACT),
    ("A man with a beard.<|im_end|>", Reason.ARTEFACT),
    ("<think>The user wants a caption.</think> A man with a beard.", Reason.ARTEFACT),
    ("<p>A woman with short grey hair and glasses.</p>", Reason.ARTEFACT),
    ("A woman with short hair &amp; round glasses.", Reason.ARTEFACT),
    ("A [age] year old [gender] with [colour] hair.", Reason.ARTEFACT),
    ("A {gender} with {hair_colour} hair and a smile.", Reason.ARTEFACT),
    ('{"hair": "blond", "eyes": "blue", "age": "young adult"}', Reason.ARTEFACT),
    ("| hair | blond | eyes | blue |", Reason.ARTEFACT),
    ("Caption: a woman with long blond hair and blue eyes.", Reason.ARTEFACT),
    ("Assistant: A man in his fifties with grey hair.", Reason.ARTEFACT),
    ("Sure! A young woman with long blond hair smiles.", Reason.ARTEFACT),
    ("Certainly, this is a man with short brown hair.", Reason.ARTEFACT),
    ("Here is a description of the face: a man with a beard.", Reason.ARTEFACT),
    ("A smiling woman with curly hair. Let me know if you need more!", Reason.ARTEFACT),
    ("A woman with red hair, see https://example.org/face.jpg", Reason.ARTEFACT),
    ("A happy woman with curly hair 😀 and freckles.", Reason.ARTEFACT),
    (r"A woman with red hair.\nShe smiles at the camera.", Reason.ARTEFACT),
    ("I'm sorry, but I can't help with identifying people in images.", Reason.REFUSAL),
    ("I\u2019m sorry, I can\u2019t assist with that request.", Reason.REFUSAL),
    ("I cannot determine the age or gender of this person.", Reason.REFUSAL),
    ("As an AI language model, I do not see images.", Reason.REFUSAL),
    ("Unfortunately I am unable to view the photograph.", Reason.REFUSAL),
    ("It is not possible to tell the gender from this photograph.", Reason.REFUSAL),
    ("There was no image provided to look at, only text.", Reason.REFUSAL),
    ("Describe this person in one natural sentence.", Reason.ECHO),
    ("Please describe the hair and the eyes.", Reason.ECHO),
    ("A line with apparent age, gender, hair and expression, as told.", Reason.ECHO),
    ("Answer in plain English with the text alone, at most fifty words.", Reason.ECHO),
    ("Una mujer joven con el pelo largo y ojos azules.", Reason.LANGUAGE),
    ("Une jeune femme avec des cheveux blonds et les yeux bleus.", Reason.LANGUAGE),
    ("Eine junge Frau mit langen blonden Haaren und einem Hut.", Reason.LANGUAGE),
    ("Uma mulher jovem com cabelo longo e olhos castanhos.", Reason.LANGUAGE),
    ("Una donna con i capelli lunghi e gli occhi azzurri che sorride.", Reason.LANGUAGE),
    ("Een jonge vrouw met blond haar en een rode hoed op.", Reason.LANGUAGE),
    ("一位年轻女子长长的金色卷发对着镜头微笑。", Reason.LANGUAGE),
    ("Молодая женщина, длинные светлые волосы.", Reason.LANGUAGE),
    ("A young woman with 长长的金色卷发 and a smile.", Reason.LANGUAGE),
    ("Woman.", Reason.SHORT),
    ("A blond woman", Reason.SHORT),
    ("N/A", Reason.SHORT),
    ("hair hair hair hair hair hair", Reason.REPEATED),
    ("A woman with blue eyes, blue eyes, blue eyes and a smile.", Reason.REPEATED),
    ("A man with a beard and a man with a beard and a man with a beard", Reason.REPEATED),
    ("He has long brown hair. He wears a hat. He has long brown hair and a tie.", Reason.REPEATED),
    ("a nice smile, then a nice smile again, and lastly a nice smile", Reason.REPEATED),
)


def test_there_are_enough_examples_of_each_kind():
    assert len(set(GOOD)) + len(set(BAD)) >= 60


@pytest.mark.parametrize("answer", GOOD)
def test_a_good_caption_is_kept_word_for_word(answer: str):
    assert review(answer, PROMPTS[0], 4) == answer


@pytest.mark.parametrize(("answer", "reason"), BAD)
def test_a_bad_answer_is_refused_with_its_reason(answer: str, reason: Reason):
    judged = review(answer, PROMPTS[0], 4)
    assert isinstance(judged, Rejection), judged
    assert judged.reason is reason, judged


@pytest.mark.parametrize("prompt", PROMPTS)
def test_a_repeated_prompt_is_an_echo_and_good_captions_are_not(prompt: str):
    judged = review(prompt, prompt, 4)
    assert isinstance(judged, Rejection)
    assert judged.reason is Reason.ECHO
    assert all(isinstance(review(answer, prompt, 4), str) for answer in GOOD)


def test_lines_are_joined_and_enclosing_quotation_marks_removed():
    assert review('"A man with a grey beard."', PROMPTS[0], 4) == "A man with a grey beard."
    assert review("A man\nwith a\tgrey beard.", PROMPTS[0], 4) == "A man with a grey beard."


def test_the_minimum_number_of_words_is_an_argument():
    assert isinstance(review("A blond woman", PROMPTS[0], 3), str)
    assert isinstance(review(GOOD[0], PROMPTS[0], 40), Rejection)


WORDS = ("a", "woman", "with", "red", "hair", "and", "Hut", "mit", "😀", "\x07", ".")


@given(st.text(max_size=200) | st.lists(st.sampled_from(WORDS)).map(" ".join))
def test_reviews_are_deterministic_and_accepted_captions_have_clean_text(text: str):
    judged = review(text, PROMPTS[3], 4)
    assert judged == review(text, PROMPTS[3], 4)
    if isinstance(judged, str):
        assert not any(unicodedata.category(char)[0] == "C" for char in judged)
        assert judged == " ".join(judged.split())
        assert sum(char.isalnum() for char in judged) >= 4
