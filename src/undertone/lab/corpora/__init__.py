"""The five corpora: what is published about them, and their clips as utterances.

``load(root)`` reads what lies below a data root with one folder per corpus (``RAVDESS``, ``CREMA-D``,
``TESS``, ``SAVEE``, ``EMO-DB``); ``CORPORA`` describes each and reads a folder of one.
"""

from collections.abc import Sequence
from pathlib import Path

from undertone.lab.corpora import crema_d, emo_db, ravdess, savee, tess
from undertone.lab.corpora.counts import CorpusCounts, Counts, count_corpus
from undertone.lab.corpora.duplicates import Problem, exclude, find_problems
from undertone.lab.corpora.utterance import Corpus, CorpusError, Utterance, same_name

CORPORA: dict[str, Corpus] = {corpus.CORPUS.name: corpus.CORPUS for corpus in (ravdess, crema_d, tess, savee, emo_db)}

__all__ = [
    "CORPORA",
    "Corpus",
    "CorpusCounts",
    "CorpusError",
    "Counts",
    "Problem",
    "Utterance",
    "check_counts",
    "exclude",
    "find_problems",
    "get_corpus",
    "load",
]


def get_corpus(name: str) -> Corpus:
    """Return the corpus of that name; case and punctuation do not matter.

    Raises
    ------
    CorpusError
        If there is no such corpus.

    Examples
    --------
    >>> get_corpus("CREMAD").name
    'crema-d'
    """
    for corpus in CORPORA.values():
        if same_name(name, corpus.name):
            return corpus
    raise CorpusError(f"no corpus is called {name!r}; there are {', '.join(CORPORA)}")


def load(root: Path | str, corpora: Sequence[str] | None = None) -> list[Utterance]:
    """Every clip of the corpora below ``root``: corpus by corpus in the order of ``CORPORA``, sorted by name.

    Parameters
    ----------
    root
        Holds one folder per corpus; case and punctuation of a folder's name do not matter.
    corpora
        Names of the corpora to read. None reads those that are there.

    Raises
    ------
    CorpusError
        If a corpus that was asked for is missing, if there is none at all, or if a folder holds no clips.
    """
    root = Path(root)
    if not root.is_dir():
        raise CorpusError(f"{root} is not a folder; give the folder that holds {_folders(CORPORA)}")
    asked = list(CORPORA) if corpora is None else [get_corpus(name).name for name in corpora]
    folders = {name: folder for name in CORPORA if name in asked and (folder := _find_folder(root, name))}
    missing = [name for name in asked if name not in folders]
    if missing and (corpora is not None or not folders):
        raise CorpusError(
            f"{root} has no folder {_folders(missing)}; run 'undertone lab corpora download NAME' "
            "or give the folder that holds it"
        )
    return [utterance for name, folder in folders.items() for utterance in CORPORA[name].parse(folder)]


def check_counts(utterances: Sequence[Utterance], corpora: Sequence[str] | None = None) -> Counts:
    """Count utterances against what was published, corpus by corpus.

    Parameters
    ----------
    corpora
        The corpora to count. None counts those that have utterances.
    """
    if corpora is None:
        corpora = list({utterance.corpus for utterance in utterances})
    asked = {get_corpus(name).name for name in corpora}
    return Counts(tuple(count_corpus(corpus, utterances) for name, corpus in CORPORA.items() if name in asked))


def _find_folder(root: Path, name: str) -> Path | None:
    exact = root / CORPORA[name].folder
    if exact.is_dir():
        return exact
    alike = [path for path in sorted(root.iterdir()) if path.is_dir() and same_name(path.name, name)]
    return alike[0] if alike else None


def _folders(names: Sequence[str] | dict[str, Corpus]) -> str:
    return ", ".join(CORPORA[name].folder for name in names)
