"""undertone.audio: every input of the table in its docstring, and equality with libsndfile and soxr."""

import io
import logging
import os
import stat
import struct
import subprocess
import sys
import tempfile

import numpy as np
import pytest
import soundfile
import soxr

from undertone import audio, containers
from undertone.audio import (
    AUDIO_SUFFIXES,
    MAX_CHANNELS,
    MAX_DURATION_S,
    SAMPLE_RATE,
    AudioError,
    audio_info,
    find_audio,
    load_waveform,
    stream_blocks,
    stream_channels,
)

# ---- making files ----


def encode(frames, sample_rate=SAMPLE_RATE, kind="WAV", subtype="PCM_16"):
    buffer = io.BytesIO()
    soundfile.write(buffer, frames, sample_rate, format=kind, subtype=subtype)
    return buffer.getvalue()


def wav(
    data, *, tag=1, n_channels=1, sample_rate=SAMPLE_RATE, n_bits=16, more=b"", n_data=None, n_riff=None, align=None
):
    """A WAV file by hand, so that its header can say anything."""
    align = n_channels * n_bits // 8 if align is None else align
    form = struct.pack("<HHIIHH", tag, n_channels, sample_rate, sample_rate * align, align, n_bits) + more
    body = b"WAVE" + chunk(b"fmt ", form) + chunk(b"data", data, n_data)
    return b"RIFF" + struct.pack("<I", len(body) if n_riff is None else n_riff) + body


def chunk(name, content, size=None, order="<"):
    size = len(content) if size is None else size
    return name + struct.pack(order + "I", size) + content + b"\0" * (len(content) % 2)


def pcm16(waveform):
    return np.round(np.asarray(waveform) * 32_767).astype("<i2").tobytes()


@pytest.fixture
def tone(make_tone):
    return make_tone(duration_s=0.5)


@pytest.fixture
def no_libsndfile(monkeypatch):
    """Fail if libsndfile is given anything at all."""

    def refuse(*args, **options):
        raise AssertionError("libsndfile was called")

    monkeypatch.setattr(soundfile, "SoundFile", refuse)


# ---- agreement with libsndfile and soxr ----

PCM = {
    "WAV": ("PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ALAW", "ULAW"),
    "WAVEX": ("PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ALAW", "ULAW"),
    "RF64": ("PCM_16", "PCM_24", "FLOAT"),
    "AIFF": ("PCM_S8", "PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ALAW", "ULAW"),
}


@pytest.mark.parametrize(("kind", "subtype"), [(kind, subtype) for kind, names in PCM.items() for subtype in names])
@pytest.mark.parametrize("n_channels", [1, 2])
def test_own_decoding_equals_libsndfile(kind, subtype, n_channels, rng):
    frames = np.clip(0.4 * rng.standard_normal((5_001, n_channels)), -1, 1)
    content = encode(frames, kind=kind, subtype=subtype)
    expected, _ = soundfile.read(io.BytesIO(content), dtype="float32", always_2d=True)
    np.testing.assert_allclose(load_waveform(content), expected.mean(axis=1), rtol=0, atol=1e-7)


def test_little_endian_aiff_is_read():
    buffer = io.BytesIO()
    frames = np.array([0.5, -0.25, 0.125])
    soundfile.write(buffer, frames, SAMPLE_RATE, format="AIFF", subtype="PCM_16", endian="LITTLE")
    assert b"sowt" in buffer.getvalue()
    np.testing.assert_array_equal(load_waveform(buffer), frames)


@pytest.mark.parametrize("law", ["ALAW", "ULAW"])
def test_all_256_codes_of_the_telephone_laws(law, no_libsndfile, request):
    content = wav(bytes(range(256)), tag=6 if law == "ALAW" else 7, n_bits=8)
    ours = load_waveform(content)
    request.getfixturevalue("monkeypatch").undo()
    np.testing.assert_array_equal(ours, soundfile.read(io.BytesIO(content), dtype="float32")[0])


@pytest.mark.parametrize(
    ("kind", "subtype", "sample_rate"),
    [
        ("FLAC", "PCM_16", 16_000),
        ("FLAC", "PCM_24", 44_100),
        ("OGG", "VORBIS", 22_050),
        ("OGG", "OPUS", 48_000),
        ("OGG", "OPUS", 16_000),
        ("MP3", "MPEG_LAYER_III", 16_000),
        ("MP3", "MPEG_LAYER_III", 44_100),
    ],
)
def test_block_by_block_equals_all_at_once(kind, subtype, sample_rate, make_speech):
    speech = make_speech(0, 3.0, sample_rate=sample_rate)
    content = encode(np.stack([speech, 0.5 * speech], axis=1), sample_rate, kind, subtype)
    expected = soundfile.read(io.BytesIO(content), dtype="float32")[0].mean(axis=1)
    if sample_rate != SAMPLE_RATE:
        expected = soxr.resample(expected, sample_rate, SAMPLE_RATE)
    np.testing.assert_allclose(load_waveform(content), np.clip(expected, -1, 1), rtol=0, atol=1e-6)


@pytest.mark.parametrize("sample_rate", [1_000, 8_000, 11_025, 24_414, 44_100, 48_000, 96_000, 192_000, 384_000])
def test_resampling_in_blocks_equals_soxr_at_once(sample_rate, make_speech):
    speech = make_speech(1, 0.7, sample_rate=sample_rate)
    waveform = load_waveform(speech, sample_rate=sample_rate)
    expected = soxr.resample(speech, sample_rate, SAMPLE_RATE)
    np.testing.assert_allclose(waveform, expected, rtol=0, atol=1e-6)
    assert len(waveform) == round(len(speech) * SAMPLE_RATE / sample_rate)


def test_what_16_khz_cannot_hold_is_filtered_not_folded(make_tone):
    waveform = load_waveform(make_tone(30_000, sample_rate=192_000), sample_rate=192_000)
    assert np.abs(waveform[800:-800]).max() < 1e-4  # taking every 12th sample would leave a tone at 2 kHz


def test_a_tone_keeps_its_frequency_and_level(make_tone):
    waveform = load_waveform(make_tone(440, sample_rate=8_000), sample_rate=8_000)
    np.testing.assert_allclose(waveform[800:-800], make_tone(440)[800:-800], atol=1e-3)


def test_the_blocks_in_a_row_are_the_waveform(make_speech):
    speech = make_speech(2, 2.0, sample_rate=44_100)
    blocks = list(stream_blocks(speech, sample_rate=44_100))
    assert len(blocks) > 5
    assert all(len(block) and block.dtype == np.float32 for block in blocks)
    np.testing.assert_array_equal(np.concatenate(blocks), load_waveform(speech, sample_rate=44_100))


# ---- kinds of source ----


def test_path_bytes_and_file_object_agree(tmp_path, tone):
    path = tmp_path / "clip.flac"
    path.write_bytes(encode(tone, kind="FLAC"))
    expected = load_waveform(path)
    np.testing.assert_allclose(expected, tone, atol=2**-15)
    with path.open("rb") as file:
        file.seek(100)  # where the caller left it does not matter
        for source in (str(path), path.read_bytes(), bytearray(path.read_bytes()), memoryview(path.read_bytes()), file):
            np.testing.assert_array_equal(load_waveform(source), expected)
        assert not file.closed


def test_spooled_upload(tone):
    with tempfile.SpooledTemporaryFile() as upload:
        upload.write(encode(tone))
        assert len(load_waveform(upload)) == len(tone)


@pytest.mark.parametrize(("suffix", "kind"), [(".wav", "AIFF"), (".flac", "MP3"), ("", "OGG"), (".txt", "WAV")])
def test_the_content_decides_not_the_name(tmp_path, tone, kind, suffix):
    path = tmp_path / f"clip{suffix}"
    subtype = {"MP3": "MPEG_LAYER_III", "OGG": "VORBIS"}.get(kind, "PCM_16")
    path.write_bytes(encode(tone, kind=kind, subtype=subtype))
    assert len(load_waveform(path)) == len(tone)


@pytest.mark.parametrize(("kind", "subtype"), [("MP3", "MPEG_LAYER_III"), ("FLAC", "PCM_16")])
@pytest.mark.parametrize("n_tags", [1, 2])
def test_tags_in_front_are_skipped(tone, kind, subtype, n_tags):
    content = encode(tone, kind=kind, subtype=subtype)
    tag = b"ID3\x04\0\0\0\0\x02\x10" + bytes(0x110)
    np.testing.assert_array_equal(load_waveform(n_tags * tag + content), load_waveform(content))


@pytest.mark.parametrize("n_channels", [1, 2])
def test_a_valid_mp3_is_read_without_noise_on_stderr(capfd, make_speech, n_channels):
    speech = np.repeat(make_speech(0, 3.0)[:, np.newaxis], n_channels, axis=1)
    load_waveform(encode(speech, kind="MP3", subtype="MPEG_LAYER_III"))
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: io.StringIO("text"), "'rb'"),
        (lambda: [0.0, 0.1], "expected a path, bytes"),
        (lambda: None, "expected a path, bytes"),
        (lambda: b"", "is empty"),
    ],
)
def test_other_sources_are_refused(make, said):
    with pytest.raises(AudioError, match=said):
        load_waveform(make())


def test_closed_and_unseekable_files_are_refused(tmp_path):
    closed = io.BytesIO(b"x")
    closed.close()
    with pytest.raises(AudioError, match=r"file\.read\(\)"):
        load_waveform(closed)
    read_end, write_end = os.pipe()
    os.close(write_end)
    with os.fdopen(read_end, "rb") as pipe, pytest.raises(AudioError, match=r"file\.read\(\)"):
        load_waveform(pipe)


# ---- paths that are no audio file ----


def test_missing_file(tmp_path):
    with pytest.raises(AudioError, match=r"nowhere\.wav: there is no such file; check the path"):
        load_waveform(tmp_path / "nowhere.wav")


def test_folder(tmp_path):
    with pytest.raises(AudioError, match="is a folder; pass the files in it"):
        load_waveform(tmp_path)


def test_empty_path_and_nul_character():
    with pytest.raises(AudioError, match="no such file"):
        load_waveform("")
    with pytest.raises(AudioError, match="no valid path"):
        load_waveform("a\0b.wav")


def test_empty_file(tmp_path):
    path = tmp_path / "empty.wav"
    path.touch()
    with pytest.raises(AudioError, match=r"empty\.wav: is empty"):
        load_waveform(path)


@pytest.mark.parametrize("content", [b"path,emotion\nclip.wav,anger\n", "Gr\u00fc\u00dfe".encode() * 200, b"RIFF"])
def test_text_renamed_wav(tmp_path, content):
    path = tmp_path / "notes.wav"
    path.write_bytes(content)
    with pytest.raises(AudioError, match="is text, whatever its name says"):
        load_waveform(path)


def test_noise_renamed_wav(tmp_path, rng):
    with pytest.raises(AudioError, match="is not WAV, FLAC"):
        load_waveform(b"\0" + rng.bytes(4_000))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\0\0\0\x20ftypM4A \0\0\0\0" + bytes(100), "MP4"),
        (b"\x1a\x45\xdf\xa3" + bytes(100), "WebM"),
        (b"caff\0\1\0\0desc" + bytes(100), "CAF"),
        (b"RIFX\0\0\0\x20WAVEfmt " + bytes(100), "big-endian WAV"),
        (b".snd" + bytes(100), "Sun AU"),
        (b"OggS\0\2" + bytes(20) + b"\1\x50Speex   " + bytes(80), "neither Vorbis nor Opus"),
        (b"\xff\xf1\x50\x80" + bytes(100), "is not WAV"),  # AAC: no MP3, though it has the same first bits
    ],
)
def test_known_formats_that_are_not_read(content, said, no_libsndfile):
    with pytest.raises(AudioError, match=f"{said}.*ffmpeg -i"):
        load_waveform(content)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFO here")
def test_fifo_and_device_are_refused_without_opening_them(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe.wav")
    monkeypatch.setattr(audio, "open", lambda *args, **options: pytest.fail("opened"), raising=False)
    for path in (tmp_path / "pipe.wav", "/dev/zero"):
        with pytest.raises(AudioError, match="is no regular file"):
            load_waveform(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFO here")
def test_a_file_swapped_for_a_fifo_after_the_check_does_not_hang(tmp_path, monkeypatch):
    path = tmp_path / "pipe.wav"
    os.mkfifo(path)
    real, calls = os.stat, []

    def regular_at_first(*args, **options):
        calls.append(args)
        return os.stat_result((stat.S_IFREG, *real(*args, **options)[1:]))

    monkeypatch.setattr(os, "stat", regular_at_first)
    with pytest.raises(AudioError, match="is no regular file"):
        load_waveform(path)
    assert calls


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="POSIX permissions")
def test_permission_denied(tmp_path, tone):
    path = tmp_path / "secret.wav"
    path.write_bytes(encode(tone))
    path.chmod(0)
    user = os.geteuid()
    if user == 0:  # root may read anything: be nobody for a moment
        tmp_path.chmod(0o755)
        os.seteuid(65_534)
    try:
        with pytest.raises(AudioError, match=r"secret\.wav: permission denied|denied; make the file readable"):
            load_waveform(path)
    finally:
        os.seteuid(user)


# ---- damage and lies ----


@pytest.mark.parametrize(
    ("kind", "subtype", "warns"),
    [
        ("WAV", "PCM_16", True),
        ("AIFF", "PCM_24", True),
        ("FLAC", "PCM_16", True),
        ("MP3", "MPEG_LAYER_III", True),
        ("OGG", "VORBIS", False),  # an Ogg header declares no length
        ("OGG", "OPUS", False),
    ],
)
def test_truncated_file_gives_what_is_there(kind, subtype, warns, make_speech, caplog):
    speech = make_speech(0, 10.0)  # of Ogg, only whole pages count: over a second each
    content = encode(speech, kind=kind, subtype=subtype)
    whole = load_waveform(content)
    assert not caplog.records
    half = load_waveform(content[: len(content) // 2])
    assert 2.5 * SAMPLE_RATE < len(half) < 6 * SAMPLE_RATE
    n = len(half) - 1_200  # an MP3 ends in half a frame
    np.testing.assert_allclose(half[:n], whole[:n], atol=1e-6)
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * warns
    assert all("of the 10.00 s its header declares" in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize(("kind", "subtype"), [("FLAC", "PCM_16"), ("MP3", "MPEG_LAYER_III"), ("OGG", "VORBIS")])
def test_truncated_to_its_header_is_refused(kind, subtype, tone):
    with pytest.raises(AudioError, match=r"damaged|holds no samples"):
        load_waveform(encode(tone, kind=kind, subtype=subtype)[:60])


def test_damage_in_the_middle_keeps_what_comes_before(make_speech, caplog):
    content = bytearray(encode(make_speech(0, 4.0), kind="FLAC"))
    content[len(content) // 2 :] = bytes(len(content) - len(content) // 2)
    assert 1.0 < len(load_waveform(bytes(content))) / SAMPLE_RATE < 2.6
    assert len(caplog.records) == 1


@pytest.mark.parametrize("n_data", [100_000, 0x7FFF_0000 - 1])
def test_wav_header_that_claims_too_much(tone, n_data, caplog):
    assert len(load_waveform(wav(pcm16(tone), n_data=n_data))) == len(tone)
    assert "ends after 0.50 s" in caplog.text


@pytest.mark.parametrize(
    "header", [{"n_data": 0xFFFFFFFF}, {"n_data": 0x7FFFFFFF}, {"n_data": 0, "n_riff": 0}, {"n_data": 0, "n_riff": 36}]
)
def test_streamed_and_unclosed_wav_are_read_to_their_end(tone, header, caplog):
    assert len(load_waveform(wav(pcm16(tone), **header))) == len(tone)
    assert not caplog.records


def test_wav_header_that_claims_too_little_is_believed(tone):
    assert len(load_waveform(wav(pcm16(tone), n_data=200))) == 100  # what follows may be other chunks


def set_flac_length(content, n_samples):
    """The last 36 bits of bytes 18 to 26 of a FLAC file are its number of samples, 0 for unknown."""
    fields = int.from_bytes(content[18:26], "big") >> 36 << 36 | n_samples
    return content[:18] + fields.to_bytes(8, "big") + content[26:]


def test_flac_header_that_lies(tone, caplog):
    content = encode(tone, kind="FLAC")
    assert len(load_waveform(set_flac_length(content, 0))) == len(tone)
    with pytest.raises(AudioError, match=r"lasts 3600\.0 s by its header, more than the 600 s"):
        load_waveform(set_flac_length(content, 3_600 * SAMPLE_RATE))
    assert len(load_waveform(set_flac_length(content, 2 * len(tone)))) == len(tone)
    assert "ends after 0.50 s of the 1.00 s" in caplog.text


def test_length_is_checked_while_decoding_too(make_tone):
    content = set_flac_length(encode(make_tone(duration_s=3.0), kind="FLAC"), 0)
    assert audio_info(content).duration_s is None
    with pytest.raises(AudioError, match=r"goes on after .* more than the 2 s"):
        load_waveform(content, max_duration_s=2.0)


@pytest.mark.parametrize(
    "content",
    [
        wav(bytes(100), align=0),
        wav(bytes(100), align=3),
        wav(bytes(100), n_channels=0),
        wav(bytes(100), n_bits=0),
        wav(bytes(100))[:30],
        b"RIFF\x40\0\0\0WAVE" + chunk(b"data", bytes(100)),
        b"RIFF\x40\0\0\0WAVE" + chunk(b"fmt ", bytes(4)) + chunk(b"data", bytes(100)),
        b"FORM\0\0\0\x40AIFF" + chunk(b"COMM", bytes(4), order=">") + chunk(b"SSND", bytes(100), order=">"),
        b"FORM\0\0\0\x40AIFF" + chunk(b"COMM", bytes(18), order=">") + chunk(b"SSND", bytes(100), order=">"),
    ],
)
def test_damaged_headers(content, no_libsndfile):
    with pytest.raises(AudioError, match=r"export it again|ffmpeg"):
        load_waveform(content)


def test_a_million_empty_chunks_end_soon():
    content = b"RIFF\xff\xff\xff\x7fWAVE" + chunk(b"junk", b"") * 1_000_000
    with pytest.raises(AudioError, match="no 'fmt '"):
        load_waveform(content)
    assert containers._MAX_CHUNKS <= 10_000


# ---- codecs that are kept away from libsndfile ----


def ima_adpcm(n_blocks=4):
    """IMA ADPCM in WAV: blocks of 256 bytes hold a 4-byte header and 505 samples."""
    block = struct.pack("<hBB", 0, 0, 0) + bytes(range(252))
    return wav(block * n_blocks, tag=0x11, n_bits=4, align=256, more=struct.pack("<HH", 2, 505))


def extensible(tag, tail=containers._GUID_TAIL):
    more = struct.pack("<HHI", 22, 16, 4) + struct.pack("<H", tag) + tail
    return wav(bytes(400), tag=0xFFFE, more=more)


def aifc(compression):
    common = struct.pack(">HIHHQ", 1, 100, 16, 16_383 + 13, 16_000 << 50) + compression + b"\0\0"
    body = b"AIFC" + chunk(b"COMM", common, order=">") + chunk(b"SSND", bytes(208), order=">")
    return b"FORM" + struct.pack(">I", len(body)) + body


def test_the_hand_made_adpcm_file_is_real():
    with soundfile.SoundFile(io.BytesIO(ima_adpcm())) as sound:
        assert (sound.format, sound.subtype) == ("WAV", "IMA_ADPCM")


def test_hand_made_aifc_opens():
    assert audio_info(aifc(b"NONE")).sample_rate == 16_000
    assert len(load_waveform(aifc(b"NONE"))) == 100


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (ima_adpcm(), "IMA ADPCM"),
        (wav(bytes(512), tag=2, n_bits=4, align=256), "MS ADPCM"),
        (wav(bytes(650), tag=0x31, n_bits=0, align=65), "GSM"),
        (wav(bytes(512), tag=0x55, n_bits=0, align=1), "MP3"),
        (extensible(0x11), "IMA ADPCM"),
        (extensible(1, b"\1" + containers._GUID_TAIL[1:]), "codec that is not read"),
        (b"RF64" + ima_adpcm()[4:], "IMA ADPCM"),
        (b"ID3\x04\0\0\0\0\0\0" + ima_adpcm(), "is not WAV"),
        (b"ID3\x04\0\0\0\0\0\x04" + bytes(4) + ima_adpcm(), "is not WAV"),
        (b"ID3\x04\0\0\0\0\0\0" * 3 + ima_adpcm(), "is not WAV"),
        (b"\0" + ima_adpcm(), "is not WAV"),
        (b"RIFX" + ima_adpcm()[4:], "big-endian"),
        (aifc(b"ima4"), "ima4"),
        (aifc(b"GSM "), "GSM"),
        (encode(np.zeros(999), kind="W64", subtype="IMA_ADPCM"), "Wave64"),
    ],
)
def test_adpcm_never_reaches_libsndfile(content, said, no_libsndfile):
    with pytest.raises(AudioError, match=f"{said}.*ffmpeg"):
        load_waveform(content)


def test_a_second_format_chunk_changes_nothing(no_libsndfile, tone):
    sneaky = ima_adpcm()[12:40]
    content = wav(pcm16(tone))
    content = content[:36] + sneaky + content[36:]
    np.testing.assert_allclose(load_waveform(content), tone, atol=2**-15)


@pytest.mark.parametrize(("kind", "subtype"), [("FLAC", "PCM_16"), ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III")])
@pytest.mark.parametrize("prefix", [b"", b"ID3\x04\0\0\0\0\0\x0a" + b"RIFF\0\0\0\0WA"])
def test_libsndfile_starts_at_the_bytes_that_were_checked(kind, subtype, prefix, tone, monkeypatch):
    if prefix and kind == "OGG":
        pytest.skip("Ogg has no ID3 tags")
    real, heads = soundfile.SoundFile, []

    def spy(window):
        assert window.tell() == 0
        heads.append(window.read(4))
        window.seek(0)
        return real(window)

    content = encode(tone, kind=kind, subtype=subtype)
    monkeypatch.setattr(soundfile, "SoundFile", spy)
    load_waveform(prefix + content)
    assert heads == [content[:4]]


# ---- degenerate signals ----


@pytest.mark.parametrize("source", [wav(b""), encode(np.zeros(0), kind="AIFF")])
def test_no_samples_in_a_file(source):
    with pytest.raises(AudioError, match="holds no samples"):
        load_waveform(source)


def test_no_samples_in_an_array():
    for array in (np.zeros(0), np.zeros((0, 2))):
        with pytest.raises(AudioError, match="holds no samples; record"):
            load_waveform(array, sample_rate=SAMPLE_RATE)
    with pytest.raises(AudioError, match="holds no samples"):
        load_waveform(np.ones(1), sample_rate=192_000)  # a twelfth of a sample at 16 kHz


def test_one_sample():
    assert load_waveform(np.array([0.5]), sample_rate=SAMPLE_RATE).tolist() == [0.5]
    assert load_waveform(wav(pcm16([0.5]))).shape == (1,)
    assert load_waveform(np.array([0.5]), sample_rate=8_000).shape == (2,)


def test_silence_stays_silence():
    waveform = load_waveform(np.zeros(44_100), sample_rate=44_100)
    assert waveform.shape == (16_000,)
    assert not waveform.any()


@pytest.mark.parametrize("sample_rate", [SAMPLE_RATE, 48_000])
def test_a_constant_is_kept(sample_rate):
    waveform = load_waveform(np.full(sample_rate, 0.25), sample_rate=sample_rate)
    np.testing.assert_allclose(waveform[1_000:-1_000], 0.25, atol=1e-4)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("as_file", [False, True])
def test_nan_and_infinity_are_refused_with_their_time(value, as_file):
    frames = np.zeros((16_000, 2), np.float32)
    frames[8_000, 1] = value
    source = encode(frames, subtype="FLOAT") if as_file else frames
    with pytest.raises(AudioError, match=r"NaN or infinite values, the first after 0\.500 s"):
        load_waveform(source, sample_rate=None if as_file else 16_000)


def test_clipped_audio_is_used_as_it_is(make_tone):
    clipped = np.clip(3 * make_tone(amplitude=1.0), -1, 1)
    np.testing.assert_array_equal(load_waveform(clipped, sample_rate=SAMPLE_RATE), clipped)
    assert np.abs(load_waveform(np.repeat(clipped, 3), sample_rate=48_000)).max() == 1.0  # overshoot of the filter


def test_values_beyond_full_scale_are_cut_and_integers_refused(make_tone):
    loud = encode(2 * make_tone(amplitude=1.0), subtype="FLOAT")
    assert np.abs(load_waveform(loud)).max() == 1.0
    unscaled = 20_000 * make_tone()
    for source, sample_rate in ((encode(unscaled, subtype="FLOAT"), None), (unscaled, SAMPLE_RATE)):
        with pytest.raises(AudioError, match=r"peak of 10000 where full scale is 1.*divide 16-bit values by 32768"):
            load_waveform(source, sample_rate=sample_rate)


# ---- channels and rates ----


@pytest.mark.parametrize(("kind", "subtype"), [("WAV", "PCM_24"), ("FLAC", "PCM_24"), ("AIFF", "PCM_24")])
def test_eight_channels_are_averaged(kind, subtype, make_tone):
    frames = np.stack([make_tone(200 * (i + 1), amplitude=0.1 * i) for i in range(8)], axis=1)
    waveform = load_waveform(encode(frames, kind=kind, subtype=subtype))
    np.testing.assert_allclose(waveform, frames.mean(axis=1), atol=1e-6)


def test_channels_of_opposite_phase_cancel(tone):
    assert not load_waveform(np.stack([tone, -tone], axis=1), sample_rate=SAMPLE_RATE).any()


@pytest.mark.parametrize("n_channels", [MAX_CHANNELS + 1, 1_000, 65_535])
def test_too_many_channels(n_channels):
    with pytest.raises(AudioError, match=f"has {n_channels} channels; 1 to 32 can be mixed"):
        load_waveform(wav(bytes(10), n_channels=n_channels, n_bits=8, align=n_channels))


def test_channels_first_is_refused_with_a_hint():
    with pytest.raises(AudioError, match=r"16000 channels.*pass array\.T"):
        load_waveform(np.zeros((2, 16_000)), sample_rate=SAMPLE_RATE)
    with pytest.raises(AudioError, match="has 0 channels"):
        load_waveform(np.zeros((16_000, 0)), sample_rate=SAMPLE_RATE)


@pytest.mark.parametrize("sample_rate", [0, 999, 384_001, 10**8])
def test_rates_out_of_range(sample_rate):
    with pytest.raises(AudioError, match="rates from 1000 to 384000 Hz can be resampled"):
        load_waveform(wav(bytes(100), sample_rate=sample_rate))
    with pytest.raises(AudioError, match="rates from 1000 to 384000 Hz can be resampled"):
        load_waveform(np.zeros(100), sample_rate=sample_rate)


@pytest.mark.parametrize("sample_rate", [8_000, 192_000])
def test_telephone_and_studio_files(sample_rate, make_speech):
    speech = make_speech(0, 1.0, sample_rate=sample_rate)
    assert load_waveform(encode(speech, sample_rate, subtype="PCM_24")).shape == (16_000,)


# ---- arrays ----


def test_an_array_needs_its_sample_rate_and_a_file_states_its_own(tone):
    with pytest.raises(AudioError, match="pass sample_rate=, in Hz"):
        load_waveform(tone)
    with pytest.raises(AudioError, match="leave sample_rate out"):
        load_waveform(encode(tone), sample_rate=SAMPLE_RATE)
    for wrong in (16_000.0, True, "16000"):
        with pytest.raises(AudioError, match="whole number of Hz"):
            load_waveform(tone, sample_rate=wrong)


@pytest.mark.parametrize(
    ("dtype", "values", "expected"),
    [
        (np.int8, [-128, 0, 64], [-1, 0, 0.5]),
        (np.uint8, [0, 128, 192], [-1, 0, 0.5]),
        (np.int16, [-32_768, 0, 16_384], [-1, 0, 0.5]),
        (np.int32, [-(2**31), 0, 2**30], [-1, 0, 0.5]),
        (">i2", [-32_768, 0, 16_384], [-1, 0, 0.5]),
        (np.float16, [-1, 0, 0.5], [-1, 0, 0.5]),
        (np.float64, [-1, 0, 0.5], [-1, 0, 0.5]),
    ],
)
def test_arrays_are_scaled_by_their_type(dtype, values, expected):
    waveform = load_waveform(np.array(values, dtype), sample_rate=SAMPLE_RATE)
    assert waveform.dtype == np.float32
    np.testing.assert_array_equal(waveform, expected)


@pytest.mark.parametrize("dtype", [np.int64, np.uint16, bool, complex, object, "U1"])
def test_other_types_are_refused(dtype):
    with pytest.raises(AudioError, match="have no known full scale"):
        load_waveform(np.zeros(10).astype(dtype), sample_rate=SAMPLE_RATE)


@pytest.mark.parametrize("shape", [(), (2, 3, 4)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(AudioError, match="expected shape"):
        load_waveform(np.zeros(shape), sample_rate=SAMPLE_RATE)


def test_the_array_is_not_changed_and_not_shared():
    array = np.full(100, 5.0, np.float32)
    waveform = load_waveform(array, sample_rate=SAMPLE_RATE)
    waveform[:] = 0
    assert (array == 5.0).all()


# ---- bombs ----

HOUR_S = 3_600
BLOCK_BY_BLOCK = r"""
import re, resource, sys
from pathlib import Path
from undertone.audio import stream_blocks
n_samples = sum(len(block) for block in stream_blocks(sys.argv[1]))
if sys.platform == "linux":  # where ru_maxrss starts at what the process that started this one had
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]
else:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(n_samples, peak)
"""


@pytest.fixture(scope="module", params=[("OGG", "VORBIS", 8_000), ("FLAC", "PCM_16", 16_000)])
def hour_long(request, tmp_path_factory):
    """An hour of silence in some 200 kB; written in pieces, since libsndfile crashes on a long Vorbis write."""
    kind, subtype, sample_rate = request.param
    path = tmp_path_factory.mktemp("bomb") / f"hour.{kind.lower()}"
    ten_seconds = np.zeros(10 * sample_rate, np.float32)
    with path.open("wb") as file, soundfile.SoundFile(file, "w", sample_rate, 1, subtype, format=kind) as sound:
        for _ in range(HOUR_S // 10):
            sound.write(ten_seconds)
    assert path.stat().st_size < 400_000
    return path


def test_an_hour_in_a_small_file_is_refused_by_its_header(hour_long, monkeypatch):
    monkeypatch.setattr(soundfile.SoundFile, "read", lambda *args, **options: pytest.fail("decoded"))
    with pytest.raises(AudioError, match=r"hour\.\w+: lasts 3600\.0 s by its header, more than the 600 s allowed here"):
        load_waveform(hour_long)


@pytest.mark.skipif(sys.platform == "win32", reason="needs the resource module")
def test_an_hour_is_streamed_in_little_memory(hour_long):
    run = subprocess.run(
        [sys.executable, "-c", BLOCK_BY_BLOCK, hour_long], capture_output=True, text=True, timeout=60, check=True
    )
    n_samples, peak = map(int, run.stdout.split())
    assert n_samples == HOUR_S * SAMPLE_RATE  # 230 MB, had it been kept
    assert peak // (1024**2 if sys.platform == "darwin" else 1024) < 120


# ---- audio_info, find_audio, imports ----


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (wav(bytes(64_000), n_channels=2), ("WAV, 16-bit PCM", 16_000, 2, 1.0)),
        (encode(np.zeros(8_000), 8_000, subtype="ULAW"), ("WAV, mu-law", 8_000, 1, 1.0)),
        (encode(np.zeros(16_000), kind="AIFF"), ("AIFF, 16-bit NONE", 16_000, 1, 1.0)),
        (encode(np.zeros(44_100), 44_100, "FLAC"), ("FLAC", 44_100, 1, 1.0)),
        (encode(np.zeros(48_000), 48_000, "OGG", "OPUS"), ("Ogg Opus", 48_000, 1, 1.0)),
        (encode(np.zeros(22_050), 22_050, "OGG", "VORBIS"), ("Ogg Vorbis", 22_050, 1, 1.0)),
    ],
)
def test_audio_info(content, expected):
    info = audio_info(content)
    assert (info.format, info.sample_rate, info.n_channels, info.duration_s) == expected


def test_audio_info_refuses_what_loading_refuses():
    with pytest.raises(AudioError, match="IMA ADPCM"):
        audio_info(ima_adpcm())


def test_find_audio(tmp_path):
    names = ("b.WAV", "a/x.flac", "a/deep/y.opus", "a/notes.txt", "a/._x.flac", "z.mp3")
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = [tmp_path / "a/deep/y.opus", tmp_path / "a/x.flac", tmp_path / "b.WAV", tmp_path / "z.mp3"]
    assert find_audio(tmp_path) == found
    assert find_audio([tmp_path / "a", tmp_path, tmp_path / "z.mp3"]) == found
    given = [tmp_path / "a/notes.txt", tmp_path / "missing.wav"]  # named by the user: their own row says what is wrong
    assert find_audio(str(path) for path in reversed(given)) == given
    assert find_audio([]) == []


def test_find_audio_keeps_a_name_that_is_too_long(tmp_path):
    (tmp_path / "x.wav").touch()
    too_long = tmp_path / ("y" * 5_000)
    assert find_audio([tmp_path, too_long]) == [tmp_path / "x.wav", too_long]


def test_find_audio_does_not_follow_folder_links(tmp_path):
    (tmp_path / "x.wav").touch()
    (tmp_path / "loop").symlink_to(tmp_path)
    assert find_audio(tmp_path) == [tmp_path / "x.wav"]


def test_every_suffix_is_lower_case_and_starts_with_a_dot():
    assert all(suffix == suffix.lower() and suffix.startswith(".") for suffix in AUDIO_SUFFIXES)


def test_only_what_is_needed_is_imported(tmp_path, tone):
    (tmp_path / "clip.wav").write_bytes(encode(tone))
    code = (
        "import sys, undertone.audio; undertone.audio.load_waveform(sys.argv[1]); "
        "print([name for name in ('soundfile', 'soxr', 'onnxruntime', 'scipy', 'torch') if name in sys.modules])"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "clip.wav"], capture_output=True, text=True, check=True, timeout=60
    )
    assert run.stdout.strip() == "[]"  # a 16 kHz WAV file needs neither libsndfile nor soxr


# ---- real clips ----


@pytest.mark.corpus
def test_every_kind_of_file_in_the_corpora_opens(corpora_root):
    firsts = {}
    for path in find_audio(corpora_root):
        firsts.setdefault((path.relative_to(corpora_root).parts[0], path.suffix), path)
    assert firsts
    for path in firsts.values():
        waveform = load_waveform(path)
        assert 0.3 < len(waveform) / SAMPLE_RATE < 20
        assert 0.001 < np.abs(waveform).max() <= 1


@pytest.mark.parametrize("sample_rate", [SAMPLE_RATE, 44_100])
@pytest.mark.parametrize("n_channels", [1, 2, 5])
def test_channels_kept_apart_are_each_what_it_is_alone(write_sound, rng, sample_rate, n_channels):
    frames = rng.uniform(-0.9, 0.9, (3 * sample_rate + 7, n_channels)).astype(np.float32)
    blocks = list(stream_channels(frames, sample_rate=sample_rate))
    assert {block.shape[1] for block in blocks} == {n_channels}
    together = np.concatenate(blocks)
    assert together.dtype == np.float32
    for channel in range(n_channels):
        alone = load_waveform(np.ascontiguousarray(frames[:, channel]), sample_rate=sample_rate)
        np.testing.assert_allclose(together[:, channel], alone, rtol=0, atol=1e-6)
    from_file = np.concatenate(list(stream_channels(write_sound("a.wav", frames, sample_rate))))
    np.testing.assert_allclose(from_file, together, rtol=0, atol=1e-4)  # 16 bit


def test_channels_kept_apart_are_as_safe_as_mixed_ones():
    frames = np.zeros((SAMPLE_RATE, 2))
    frames[100, 1] = np.nan
    with pytest.raises(AudioError, match=r"NaN or infinite values, the first after 0\.006 s"):
        list(stream_channels(frames, sample_rate=SAMPLE_RATE))
    with pytest.raises(AudioError, match="peak of 300"):
        list(stream_channels(np.full((10, 2), 300.0), sample_rate=SAMPLE_RATE))
    with pytest.raises(AudioError, match="no samples"):
        list(stream_channels(np.zeros((0, 2)), sample_rate=SAMPLE_RATE))
    with pytest.raises(AudioError, match="allowed here"):
        list(stream_channels(np.zeros((SAMPLE_RATE, 2)), sample_rate=SAMPLE_RATE, max_duration_s=0.5))
    with pytest.raises(AudioError, match="channels"):
        list(stream_channels(np.zeros((10, MAX_CHANNELS + 1)), sample_rate=SAMPLE_RATE))
    (block,) = stream_channels(np.full((10, 2), [0.5, 3.0]), sample_rate=SAMPLE_RATE)
    assert block.tolist() == [[0.5, 1.0]] * 10


@pytest.mark.corpus
def test_real_clips_equal_libsndfile(corpora_root):
    clips = find_audio(corpora_root)
    for path in clips[:: max(1, len(clips) // 60)]:
        frames, sample_rate = soundfile.read(path, dtype="float32", always_2d=True)
        expected = frames.mean(axis=1)
        waveform = load_waveform(path)
        assert len(waveform) == round(len(expected) * SAMPLE_RATE / sample_rate)
        assert abs(audio_info(path).duration_s - len(expected) / sample_rate) < 1e-9
        if sample_rate == SAMPLE_RATE:
            np.testing.assert_allclose(waveform, np.clip(expected, -1, 1), rtol=0, atol=1e-6)


@pytest.mark.corpus
def test_the_silent_clip_of_crema_d_is_zeros(corpora_root):
    clips = [path for path in find_audio(corpora_root / "CREMA-D") if path.stem == "1076_MTI_SAD_XX"]
    if not clips:
        pytest.skip("this copy has no such clip")
    assert np.abs(load_waveform(clips[0])).max() < 1e-9  # its Opus copy decodes to 2e-34


def test_the_default_cap_is_what_the_docstring_says():
    assert pytest.approx(38, abs=1) == MAX_DURATION_S * SAMPLE_RATE * 4 / 1e6  # MB
