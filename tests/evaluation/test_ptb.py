import pytest

from emu2_lit.evaluation import caption_words


# On the right, what pycocoevalcap 1.2 makes of the left with the Java tokeniser.
@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("A man riding a wave on top of a surfboard.", "a man riding a wave on top of a surfboard"),
        (
            "Two dogs' leashes are tangled; one's red, the other's blue.",
            "two dogs leashes are tangled one 's red the other 's blue",
        ),
        ("A woman's hand holds a black-and-white cat.", "a woman 's hand holds a black-and-white cat"),
        ("The boy doesn't want to eat, he can't.", "the boy does n't want to eat he ca n't"),
        ("shouldn't've couldn't", "should n't 've could n't"),
        ("don’t stop the “music”", "do n't stop the music"),
        ('A sign that says "STOP" on a street corner!', "a sign that says stop on a street corner"),
        ("A sign that says 'no parking' near the U.S. flag.", "a sign that says no parking near the u.s. flag"),
        ("She's gonna wanna cook; I cannot, gotta go.", "she 's gon na wan na cook i can not got ta go"),
        ("gimme 'tis 'twas lemme", "gim me 't is 't was lem me"),
        ("A clock reads 3:45 p.m. on Main St.", "a clock reads 3:45 p.m. on main st."),
        ("the 7:30am train 10 a.m.", "the 7:30 am train 10 a.m."),
        (
            "Dr. Smith and Mr. Jones stand (smiling) at a table.",
            "dr. smith and mr. jones stand -lrb- smiling -rrb- at a table",
        ),
        ("A cat [brown] {cute} sits", "a cat -lsb- brown -rsb- -lcb- cute -rcb- sits"),
        ("a kitchen with stove/oven and/or microwave", "a kitchen with stove/oven and/or microwave"),
        ("A $5 bill and 50% off sign & a pen", "a $ 5 bill and 50 % off sign & a pen"),
        ("A man -- in a hat -- walks...", "a man in a hat walks"),
        ("a café – nice — place", "a café nice place"),
        ("A t-shirt with #1 on it", "a t-shirt with # 1 on it"),
        ("people at 5th ave. and 42nd st.", "people at 5th ave. and 42nd st."),
        ("two o'clock rock 'n' roll from the '90s", "two o'clock rock 'n' roll from the '90s"),
        ("hors d'oeuvres o'brien", "hors d'oeuvres o'brien"),
        ("1,000 people in 3.5 feet", "1,000 people in 3.5 feet"),
        ("A bus no. 42 says no. A couch.", "a bus no. 42 says no a couch"),
        ("A cat, dog,and bird.", "a cat dog and bird"),
        ("the man.The dog", "the man.the dog"),
        ("What? Yes!! No?!", "what yes !! no ?!"),
        ("A 10-year-old boy with a half-eaten 1/2 sandwich", "a 10-year-old boy with a half-eaten 1/2 sandwich"),
        ("A 20ft. tall 6' 2\" man", "a 20ft tall 6 2 man"),
        ("AT&T and m&m's", "at&t and m & m 's"),
        ("  ", ""),
    ],
)
def test_words_are_those_of_the_java_tokeniser(caption, expected):
    assert caption_words(caption) == expected.split()
