"""The corpora from their official sources.

========  ==================================  =============================================================
corpus    source                              what is verified
========  ==================================  =============================================================
RAVDESS   Zenodo record 1188976, one zip      Zenodo's md5
CREMA-D   GitHub LFS, else its GitLab mirror  the official sha256 of each clip, which ships with undertone
TESS      Borealis Dataverse, clip by clip    the checksum that its API gives for each file
EMO-DB    emodb.bilderbar.info, one zip       no checksum is published: the zip's own CRCs and the clip count
SAVEE     only after registering              -
========  ==================================  =============================================================

How a file is fetched is in ``transfer.py``.
"""

import csv
import gzip
from collections.abc import Callable
from importlib import resources
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

from undertone.lab.corpora import check_counts, get_corpus
from undertone.lab.corpora.counts import Counts
from undertone.lab.corpora.transfer import Client, DownloadError, RemoteFile, fetch_files, target_of, unpack
from undertone.lab.corpora.utterance import CLIP_SUFFIXES, CorpusError

ZENODO_ZIP = "https://zenodo.org/records/1188976/files/Audio_Speech_Actors_01-24.zip?download=1"
ZENODO_MD5 = "md5:bc696df654c87fed845eb13823edef8a"
ZENODO_BYTES = 208_468_073
CREMA_D_MEDIA = "https://media.githubusercontent.com/media/CheyneyComputerScience/CREMA-D/master/"
CREMA_D_RAW = "https://raw.githubusercontent.com/CheyneyComputerScience/CREMA-D/master/"
CREMA_D_MIRROR = "https://gitlab.com/cs-cooper-lab/crema-d-mirror/-/raw/main/"  # GitHub's LFS quota runs out
CREMA_D_TABLES = {  # path -> sha256
    "VideoDemographics.csv": "e33ddc8b60bedf98541735801127cbb67098b5957271adbdd5dea8a44294eec3",
    "processedResults/summaryTable.csv": "fb0e382700d32c0d9adc0c6815292215a36bcf912f2657048862c91e3bd2b317",
}
DATAVERSE = "https://borealisdata.ca/api/"
TESS_DOI = "doi:10.5683/SP2/E8H2MF"
EMO_DB_ZIP = "http://emodb.bilderbar.info/download/download.zip"
SAVEE_REGISTRATION = """SAVEE is free for research, but only after registering:
  1. register at http://kahlan.eps.surrey.ac.uk/savee/Register.html and wait for the password
  2. download the audio from http://kahlan.eps.surrey.ac.uk/savee/Download.html
  3. unpack it so that {folder}/AudioData/DC/a01.wav exists"""


class RegistrationRequired(DownloadError):
    """A corpus without a public download; the message says how to get it."""


def download(
    name: str, destination: Path | str, *, progress: bool | None = None, client: Client | None = None
) -> Counts:
    """Download a corpus to its folder below ``destination``, and count its clips against the official ones.

    What is already there and right is not fetched again.

    Parameters
    ----------
    name
        ``"ravdess"``, ``"crema-d"``, ``"tess"`` or ``"emo-db"``.
    destination
        The data root; the corpus's folder is made in it.
    progress
        Whether to draw a progress bar on stderr. None draws it when stderr is a terminal.

    Raises
    ------
    RegistrationRequired
        For SAVEE; the message says how to get it.
    DownloadError
        If something could not be fetched or has the wrong bytes. What has arrived is kept: call again.
    """
    corpus = get_corpus(name)
    folder = Path(destination) / corpus.folder
    if corpus.name not in SOURCES:
        raise RegistrationRequired(SAVEE_REGISTRATION.format(folder=folder))
    if corpus.name in ARCHIVED and _is_complete(corpus.name, folder):
        return check_counts(corpus.parse(folder), [corpus.name])
    client = client or Client()
    files = SOURCES[corpus.name](client)
    fetch_files(files, folder, client=client, progress=progress, title=corpus.folder)
    for file in files:
        if file.path.lower().endswith(".zip"):
            _unpack_and_delete(target_of(folder, file.path), folder)
    return check_counts(corpus.parse(folder), [corpus.name])


def _is_complete(name: str, folder: Path) -> bool:
    try:
        return check_counts(get_corpus(name).parse(folder), [name]).is_complete
    except CorpusError:
        return False


def _unpack_and_delete(archive: Path, folder: Path) -> None:
    try:
        unpack(archive, folder)
    except DownloadError:
        archive.unlink()  # so that the next call fetches a fresh one
        raise
    archive.unlink()


def list_ravdess(client: Client) -> list[RemoteFile]:
    """Return the one archive of the speech clips."""
    return [RemoteFile("Audio_Speech_Actors_01-24.zip", (ZENODO_ZIP,), ZENODO_MD5, ZENODO_BYTES)]


def list_emo_db(client: Client) -> list[RemoteFile]:
    """Return the one archive; no checksum of it is published."""
    return [RemoteFile("download.zip", (EMO_DB_ZIP,))]


def list_crema_d(client: Client) -> list[RemoteFile]:
    """Return the two tables, and every clip with its sha256 and size."""
    tables = [
        RemoteFile(path, (CREMA_D_RAW + path, CREMA_D_MIRROR + path), f"sha256:{sha256}")
        for path, sha256 in CREMA_D_TABLES.items()
    ]
    clips = [
        RemoteFile(
            path := f"AudioWAV/{row['file']}",
            (CREMA_D_MEDIA + path, CREMA_D_MIRROR + path),
            f"sha256:{row['sha256']}",
            int(row["bytes"]),
        )
        for row in read_crema_d_checksums()
    ]
    return tables + clips


def read_crema_d_checksums() -> list[dict[str, str]]:
    """Return file, sha256 and bytes of each official CREMA-D clip."""
    packed = resources.files("undertone.lab.corpora").joinpath("crema_d_wav_sha256.csv.gz").read_bytes()
    return list(csv.DictReader(gzip.decompress(packed).decode().splitlines()))


def list_tess(client: Client) -> list[RemoteFile]:
    """Ask the Dataverse for the files of the latest published version, and their checksums."""
    versions = f"{DATAVERSE}datasets/:persistentId/versions/:latest-published/"
    url = f"{versions}files?persistentId={quote(TESS_DOI, safe='')}"
    answer = client.get_json(url)
    try:
        files = [_dataverse_file(entry["dataFile"], entry.get("directoryLabel", "")) for entry in answer["data"]]
    except (KeyError, TypeError, ValueError) as error:
        raise DownloadError(
            f"{url} did not answer with a list of files ({error!r}); try again later, or download TESS "
            "by hand from https://tspace.library.utoronto.ca/handle/1807/24487"
        ) from error
    return [file for file in files if PurePosixPath(file.path).suffix.lower() in (*CLIP_SUFFIXES, ".zip")]


def _dataverse_file(entry: dict[str, Any], folder: str) -> RemoteFile:
    checksum = entry["checksum"]
    algorithm = checksum["type"].lower().replace("-", "")  # "MD5", "SHA-1", "SHA-256"
    return RemoteFile(
        path=f"{folder}/{entry['filename']}" if folder else entry["filename"],
        urls=(f"{DATAVERSE}access/datafile/{int(entry['id'])}",),
        checksum=f"{algorithm}:{checksum['value']}",
        n_bytes=int(entry["filesize"]),
    )


ARCHIVED = ("ravdess", "emo-db")  # one zip: nothing to verify clip by clip once it is unpacked
SOURCES: dict[str, Callable[[Client], list[RemoteFile]]] = {
    "ravdess": list_ravdess,
    "crema-d": list_crema_d,
    "tess": list_tess,
    "emo-db": list_emo_db,
}
