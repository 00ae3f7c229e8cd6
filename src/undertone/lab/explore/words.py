"""What the numbers say, in sentences: computed, short, and only what they bear out."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from undertone.lab.corpora import CORPORA

NEARLY = 0.02  # a share this close to a half or a double is called so
HARDLY_S = 0.1  # less silence is hardly any
LONGER = 1.15  # ratio of medians from which an emotion's clips are called longer
WELL_HEARD = 0.8  # agreement of listeners with actors from which labels need no warning
AUDIBLE = 0.5  # semitones or dB: smaller differences are not worth a sentence


def say_counts(name: str, corpus: Mapping[str, Any]) -> str:
    """Clips, speakers, classes and their balance of one corpus.

    Examples
    --------
    >>> corpus = {"n_utterances": 12, "n_official": 1440, "n_speakers": 1, "speakers_by_sex": {"male": 1},
    ...           "hours": 0.01, "emotions": {"anger": 8, "neutral": 4}}
    >>> say_counts("ravdess", corpus)
    'RAVDESS: 12 of 1,440 clips (36 s), 1 speaker (a man), 2 emotions; 8 clips of anger, 4 of neutral.'
    """
    here, official = corpus["n_utterances"], corpus["n_official"]
    clips = f"{here:,} clips" if here == official else f"{here:,} of {official:,} clips"
    speakers = f"{corpus['n_speakers']} speaker{_s(corpus['n_speakers'])} ({say_sexes(corpus['speakers_by_sex'])})"
    emotions = corpus["emotions"]
    classes = f"{len(emotions)} emotion{_s(len(emotions))}"
    clips = f"{CORPORA[name].folder}: {clips} ({_say_hours(corpus['hours'])})"
    return f"{clips}, {speakers}, {classes}; {_say_balance(emotions)}."


def _say_hours(hours: float) -> str:
    if hours >= 1:
        return f"{hours:.1f} h"
    return f"{60 * hours:.0f} min" if hours * 60 >= 1 else f"{3600 * hours:.0f} s"


def say_sexes(sexes: Mapping[str, int]) -> str:
    """Say how many women and men there are."""
    words = {"female": ("a woman", "women"), "male": ("a man", "men")}
    told = [words[sex][0] if n == 1 else f"{n} {words[sex][1]}" for sex in words if (n := sexes.get(sex, 0))]
    return ", ".join(told)


def _say_balance(emotions: Mapping[str, int]) -> str:
    """Say how far the emotions are from having equally many clips."""
    (usual, n_usual), *others = Counter(emotions.values()).most_common()
    if not others:
        return f"{usual:,} clips of each"
    apart = {emotion: n for emotion, n in emotions.items() if n != usual}
    if n_usual <= len(emotions) / 2:
        most, least = max(emotions, key=emotions.__getitem__), min(emotions, key=emotions.__getitem__)
        return f"{emotions[most]:,} clips of {most}, {emotions[least]:,} of {least}" + (
            ", the others between" if len(emotions) > 2 else ""
        )
    return f"{', '.join(f'{emotion} has {_say_ratio(n / usual)}' for emotion, n in apart.items())} of the others"


def _say_ratio(ratio: float) -> str:
    for value, words in ((0.5, "half the clips"), (2.0, "twice the clips")):
        if abs(ratio / value - 1) < NEARLY:
            return words
    return f"{100 * ratio:.0f} % of the clips"


def say_overlap(corpora: Mapping[str, Any]) -> str:
    """Which emotions all corpora have, and which only some."""
    if len(corpora) < 2:
        return ""
    having = Counter(emotion for corpus in corpora.values() for emotion in corpus["emotions"])
    everywhere = [emotion for emotion, n in having.items() if n == len(corpora)]
    partly = [emotion for emotion, n in having.items() if n < len(corpora)]
    told = (
        f"{'Both' if len(corpora) == 2 else f'All {len(corpora)}'} have {listed(everywhere)}"
        if everywhere
        else "No emotion is in all"
    )
    told += "".join(f"; {emotion} is in {_where(corpora, emotion)} only" for emotion in partly)
    return f"{told}."


def _where(corpora: Mapping[str, Any], emotion: str) -> str:
    return listed([CORPORA[name].folder for name, corpus in corpora.items() if emotion in corpus["emotions"]])


def say_durations(corpora: Mapping[str, Any]) -> list[str]:
    """Say how long clips are, how much of them is silence, and whether length depends on the emotion."""
    return [
        f"{CORPORA[name].folder}: {_median(corpus, 'duration_s'):.1f} s (median), "
        f"{_say_silence(corpus)}{_say_extremes(corpus)}."
        for name, corpus in corpora.items()
        if corpus["lead_s"]["all"]["n"]
    ]


def _say_silence(corpus: Mapping[str, Any]) -> str:
    lead, tail = _median(corpus, "lead_s"), _median(corpus, "tail_s")
    if lead < HARDLY_S and tail < HARDLY_S:
        return "hardly any silence around the speech"
    return f"of which {lead:.1f} s before the speech and {tail:.1f} s after it"


def _say_extremes(corpus: Mapping[str, Any]) -> str:
    medians = _medians(corpus, "duration_s")
    longest, shortest = max(medians, key=medians.__getitem__), min(medians, key=medians.__getitem__)
    if medians[longest] < LONGER * medians[shortest]:
        return "; length depends little on the emotion"
    return f"; {longest} is the longest ({medians[longest]:.1f} s), {shortest} the shortest ({medians[shortest]:.1f} s)"


def say_levels(corpora: Mapping[str, Any]) -> list[str]:
    """Say how loud the corpora and their emotions are."""
    levels = {name: _median(corpus, "level_db") for name, corpus in corpora.items() if corpus["level_db"]["all"]["n"]}
    if not levels:
        return []
    told = [_say_relative(name, corpora[name]["level_from_neutral_db"], "dB", "louder", "softer") for name in levels]
    loud, quiet = max(levels, key=levels.__getitem__), min(levels, key=levels.__getitem__)
    if loud != quiet:
        told.insert(
            0,
            f"{CORPORA[loud].folder} is recorded loudest ({_minus(levels[loud])} dB), {CORPORA[quiet].folder} quietest "
            f"({_minus(levels[quiet])} dB): {levels[loud] - levels[quiet]:.0f} dB that say nothing about emotion.",
        )
    clipped = {name: corpus["n_clipped"] for name, corpus in corpora.items() if corpus["n_clipped"]}
    if clipped:
        counts = listed([f"{n:,} of {CORPORA[name].folder}" for name, n in clipped.items()])
        told.append(f"Clips with more than one sample at full scale, so probably clipped: {counts}.")
    return [text for text in told if text]


def _minus(value: float) -> str:
    return f"{value:.0f}".replace("-", "−")


def say_pitch(corpora: Mapping[str, Any]) -> list[str]:
    """Say how far each emotion's pitch is from the same speaker's neutral."""
    told = [
        _say_relative(name, corpus["pitch_from_neutral_st"], "semitones", "higher", "lower")
        for name, corpus in corpora.items()
    ]
    return [text for text in told if text]


def _say_relative(name: str, differences: Mapping[str, float | None], unit: str, up: str, down: str) -> str:
    """Name the emotions furthest from neutral, upwards and downwards."""
    known = {emotion: value for emotion, value in differences.items() if value is not None and emotion != "neutral"}
    if not known:
        return ""
    ranked = sorted(known, key=known.__getitem__, reverse=True)
    told = [f"{emotion} is {known[emotion]:.1f} {unit} {up}" for emotion in ranked[:2] if known[emotion] > AUDIBLE]
    told += [f"{emotion} {-known[emotion]:.1f} {unit} {down}" for emotion in ranked[-1:] if known[emotion] < -AUDIBLE]
    if not told:
        return f"{CORPORA[name].folder}: no emotion is more than {AUDIBLE:g} {unit} from the same speaker's neutral."
    return f"{CORPORA[name].folder}, against the same speaker's neutral: {', '.join(told)}."


def say_map(found: Mapping[str, Any], n_corpora: int) -> list[str]:
    """Say what the map shows, and what it does not."""
    shares = found["neighbours"]
    told = [
        f"{100 * shares[kind]['share']:.0f} % share its {kind} ({100 * shares[kind]['chance']:.0f} % by chance)"
        for kind in ("emotion", "corpus", "speaker")
        if shares[kind]["share"] is not None and (kind != "corpus" or n_corpora > 1)
    ]
    text = []
    if told:
        text.append(
            f"Of a clip's {found['n_neighbours']} nearest neighbours in the {found['dim']} dimensions, {listed(told)}."
        )
    if n_corpora > 1:
        text.append(
            "Clips that cluster by corpus show domain shift: the model also sees room, microphone and script, and a "
            "model that has learned one corpus meets another as something new."
        )
    heard, n = found["n_speakers_heard_in_training"], found["n_speakers"]
    if heard:
        text.append(
            f"The model was trained on {heard if heard < n else 'all'} of these {n} speakers, so their emotions lie "
            "further apart here than those of a new voice would."
        )
    else:
        text.append(f"None of these {n} speakers is in the model's training list.")
    return text


def say_votes(votes: Mapping[str, Any]) -> str:
    """Say how well listeners heard what was meant, and what they took for what."""
    best, worst = _by_agreement(votes)
    text = (
        f"What most listeners heard, from the voice alone, is what the actor meant in {100 * votes['agreement']:.0f} % "
        f"of {votes['n']:,} clips: {best[1]} is heard best ({100 * best[0]:.0f} %), {worst[1]} worst "
        f"({100 * worst[0]:.0f} %)."
    )
    share, meant, heard = max(
        (value / max(sum(row), 1e-9), meant, heard)
        for row, meant in zip(votes["counts"], votes["meant"], strict=True)
        for value, heard in zip(row, votes["heard"], strict=True)
        if meant != heard
    )
    if share:
        text += f" Most often {meant} is taken for {heard} ({100 * share:.0f} %)."
    graded = {level: found for level, found in votes["by_intensity"].items() if level != "not given"}
    if len(graded) > 1:
        told = listed([f"{100 * found['agreement']:.0f} % at {level}" for level, found in graded.items()])
        text += f" By intended intensity: {told}."
    if votes["n_ties"]:
        text += f" {votes['n_ties']:,} ties count in equal parts."
    if votes["agreement"] < WELL_HEARD:
        text += " Who trains on the intended emotion trains on many labels that people do not hear."
    return text


def _by_agreement(votes: Mapping[str, Any]) -> tuple[tuple[float, str], tuple[float, str]]:
    found = sorted(
        (row[votes["heard"].index(meant)] / max(sum(row), 1e-9), meant)
        for row, meant in zip(votes["counts"], votes["meant"], strict=True)
    )
    return found[-1], found[0]


def say_sentences(name: str, corpus: Mapping[str, Any]) -> str:
    """How many sentences there are, and whether the emotion can be read off them."""
    found, folder = corpus["sentences"], CORPORA[name].folder
    clips = (
        f"{found['fewest_clips']:,}"
        if found["fewest_clips"] == found["most_clips"]
        else (f"{found['fewest_clips']:,} to {found['most_clips']:,}")
    )
    text = f"{folder}: {found['n']} sentence{_s(found['n'])}, {clips} clips each; "
    if found["n_in_every_emotion"] == found["n"]:
        return f"{text}each is spoken in every emotion, so the words do not give the label away."
    return (
        f"{text}{found['n_in_every_emotion']} of them in every emotion, {found['n_in_one_emotion']} in a single one: "
        "there the words give the label away."
    )


def listed(words: Sequence[str]) -> str:
    """Join words with commas and an "and".

    Examples
    --------
    >>> listed(["a", "b", "c"]), listed(["a"])
    ('a, b and c', 'a')
    """
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _median(corpus: Mapping[str, Any], key: str) -> float:
    return corpus[key]["all"]["median"]


def _medians(corpus: Mapping[str, Any], key: str) -> dict[str, float]:
    known = {emotion: corpus[key][emotion]["median"] for emotion in corpus["emotions"]}
    return {emotion: value for emotion, value in known.items() if value is not None}


def _s(n: int) -> str:
    return "" if n == 1 else "s"
