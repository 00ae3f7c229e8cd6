"""How the CREMA-D fold list in ``folds.toml`` was made: once, without chance, kept so that anyone can check.

Run ``python -m undertone.lab.evaluation.make_folds VideoDemographics.csv`` (a file of the CREMA-D release)
to print the list again. The list in the repository is the one that counts: this script is its explanation.
"""

import csv
import sys
from pathlib import Path

N_FOLDS = 6


def deal_speakers(demographics: list[tuple[str, int, str]], *, n_folds: int = N_FOLDS) -> list[list[str]]:
    """Deal speakers into folds that are alike in sex and age.

    Each sex is sorted by age (then by number) and dealt like cards, to and fro: 0 1 2 3 4 5, 5 4 3 2 1 0, ...
    Going to and fro keeps one fold from getting the oldest speaker of every round.

    Parameters
    ----------
    demographics
        One ``(speaker number, age in years, sex)`` per speaker.
    n_folds
        Number of folds, at least 2.

    Returns
    -------
    list of list of str
        Speaker numbers of each fold, sorted.

    Examples
    --------
    >>> deal_speakers([("1", 20, "f"), ("2", 30, "f"), ("3", 40, "f"), ("4", 50, "f")], n_folds=2)
    [['1', '4'], ['2', '3']]
    """
    there_and_back = [*range(n_folds), *reversed(range(n_folds))]
    folds: list[list[str]] = [[] for _ in range(n_folds)]
    for sex in sorted({sex for _, _, sex in demographics}):
        by_age = sorted((age, number) for number, age, own_sex in demographics if own_sex == sex)
        for position, (_, number) in enumerate(by_age):
            folds[there_and_back[position % len(there_and_back)]].append(number)
    return [sorted(fold) for fold in folds]


def load_demographics(path: Path) -> list[tuple[str, int, str]]:
    """Read number, age in years and sex of every speaker from CREMA-D's ``VideoDemographics.csv``."""
    with path.open(encoding="utf-8", newline="") as file:
        return [(row["ActorID"], int(row["Age"]), row["Sex"].lower()) for row in csv.DictReader(file)]


def main(arguments: list[str]) -> int:
    """Print the fold list for the demographics file named by the only argument."""
    if len(arguments) != 1:
        print("usage: python -m undertone.lab.evaluation.make_folds VideoDemographics.csv", file=sys.stderr)
        return 2
    for fold in deal_speakers(load_demographics(Path(arguments[0]))):
        print(f"    {fold},".replace("'", '"'))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
