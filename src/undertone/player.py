"""The page that plays a timeline: ``player.html`` with its content filled in, complete in itself."""

import html
import json
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

NOT_SURE = "not sure"


def fill_page(content: Mapping[str, Any], *, audio: str | None) -> str:
    """Return the page of a timeline.

    Parameters
    ----------
    content
        A timeline in JSON types, as the JSON format has it, and ``peaks``: a list of numbers in [0, 1] per channel.
    audio
        URL of the sound, relative or ``data:``; None if there is none to play.
    """
    page = resources.files("undertone").joinpath("player.html").read_text(encoding="utf-8")
    name = content["path"] or "recording"
    parts = {
        "TITLE": html.escape(name),
        "NAME": html.escape(name.rpartition("/")[2] or name),
        "ABOUT": html.escape(" · ".join([clock(content["duration_s"]), content["model"], name])),
        "AUDIO": html.escape(audio or ""),
        "TOTALS": "".join(_totals(totals) for totals in content["totals"]),
        "ROWS": "".join(_row(index, segment) for index, segment in enumerate(content["segments"])),
        "CONTENT": _in_script({key: content[key] for key in ("path", "duration_s", "segments", "peaks", "totals")}),
    }
    before, *rest = page.split("{{")
    filled = [before]
    for part in rest:  # each token once, so that nothing in the content is taken for one
        token, _, text = part.partition("}}")
        filled += [parts[token], text]
    return "".join(filled).encode("utf-8", "backslashreplace").decode("utf-8")


def clock(seconds: float) -> str:
    """Return seconds as people write them.

    Examples
    --------
    >>> clock(75.25), clock(3_600)
    ('1:15.2', '1:00:00.0')
    """
    tenths = int(seconds * 10)
    minutes, tenths = divmod(tenths, 600)
    head = f"{minutes // 60}:{minutes % 60:02d}" if minutes >= 60 else f"{minutes}"
    return f"{head}:{tenths // 10:02d}.{tenths % 10}"


def _in_script(content: object) -> str:
    """Return JSON that cannot end the script element it stands in."""
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _row(index: int, segment: Mapping[str, Any]) -> str:
    emotion = segment["emotion"] or NOT_SURE
    channel = "" if segment["channel"] is None else str(segment["channel"] + 1)
    times = f"{clock(segment['start_s'])} – {clock(segment['end_s'])}"
    return (
        f'<tr class="{_class(segment["emotion"])}" data-index="{index}">'
        f'<td><button type="button" aria-label="Play {html.escape(emotion)}, {times}">▶ {times}</button></td>'
        f'<td class="channel">{channel}</td><td class="emotion"><i></i>{html.escape(emotion)}</td>'
        f'<td class="number">{segment["confidence"]:.0%}</td></tr>\n'
    )


def _totals(totals: Mapping[str, Any]) -> str:
    heading = "" if totals["channel"] is None else f"<h3>Channel {totals['channel'] + 1}</h3>"
    shares: Sequence[tuple[str | None, float]] = [*totals["shares"].items(), (None, totals["not_sure"])]
    items = "".join(
        f'<li class="{_class(emotion)}"><i></i>{html.escape(emotion or NOT_SURE)}'
        f'<b style="--share:{share:.4f}"></b><span>{share:.0%}</span></li>'
        for emotion, share in shares
        if share > 0
    )
    longest = totals["longest_anger"]
    anger = f"{clock(longest['start_s'])} – {clock(longest['end_s'])}" if longest else "none"
    return (
        f"<section>{heading}<ul>{items}</ul><dl><dt>Speech</dt><dd>{clock(totals['speech_s'])}</dd>"
        f"<dt>Turning points</dt><dd>{len(totals['turning_points'])}</dd>"
        f"<dt>Longest anger</dt><dd>{anger}</dd></dl></section>"
    )


def _class(emotion: str | None) -> str:
    return f"e-{emotion}" if emotion else "e-unsure"
