"""Our page against Gradio, mounted on the same kind of service, in the same browser: what a first visit costs.

    python benchmarks/page.py                             # our page
    python benchmarks/page.py --gradio ENV/bin/python     # and Gradio's, run by an environment that has it

The second environment is a throw-away one: ``python -m venv ENV && ENV/bin/pip install gradio ".[web]"``. Gradio's page
has what it offers for the same tasks: an upload, a microphone that streams, a model choice, probabilities as a label.

Needs Playwright and a chromium. Each figure is the median over cold visits (an empty cache each):

- bytes as sent, requests, requests to other hosts (tried, not only answered), until nothing more arrives
- first contentful paint
- live: from the first loud sample at the microphone, which is a file, to the first emotion on the screen; answers are
  due every 0.5 s in both, so that a quarter of a second on average is waiting for the next one
- findings of axe-core on the first screen, by impact
"""

import argparse
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
from collections import Counter
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

DEMO = Path(__file__).parents[1] / "demo"
SILENCE_S = 4.0  # longer than the model's window: what is on the screen before the voice comes back is "quiet"
QUIET_DB = -60
HOP_S = 0.5

# Runs before the page's own scripts: watches the microphone stream that the page is given, and what it shows.
WATCH = """() => {
  window.onsets = [];
  window.answers = [];
  const give = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
  navigator.mediaDevices.getUserMedia = async (wanted) => {
    const stream = await give(wanted);
    const context = new AudioContext();
    const analyser = new AnalyserNode(context, {fftSize: 512});
    context.createMediaStreamSource(stream).connect(analyser);
    const samples = new Float32Array(512);
    let quietSince = performance.now();
    setInterval(() => {
      analyser.getFloatTimeDomainData(samples);
      const isLoud = samples.some((sample) => Math.abs(sample) > 0.02);
      const now = performance.now();
      if (isLoud && now - quietSince > 2500) window.onsets.push(now);
      if (isLoud) quietSince = now;
    }, 5);
    return stream;
  };
  let before = "";
  setInterval(() => {
    const words = document.querySelector("%s")?.innerText?.trim().split(/\\s/)[0] ?? "";
    if (words !== before) window.answers.push([performance.now(), words]);
    before = words;
  }, 5);
}"""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gradio", metavar="PYTHON", help="An interpreter that has gradio and undertone[web].")
    parser.add_argument("--visits", type=int, default=7)
    parser.add_argument("--onsets", type=int, default=6, help="Times that the voice begins, for the live figure.")
    parser.add_argument("--serve-gradio", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve_gradio:
        serve_gradio()
        return
    ours = [sys.executable, "-m", "undertone", "serve", "--port", "0"]
    sides = {"undertone": Side(ours, "#live", "#live-verdict .emotion")}
    if arguments.gradio:
        theirs = [arguments.gradio, __file__, "--serve-gradio"]
        sides["Gradio"] = Side(theirs, None, "#answer [data-testid=label-output-value]")
    rows = measure(sides, arguments.visits, arguments.onsets)
    print("| | " + " | ".join(rows) + " |\n| --- |" + " --- |" * len(rows))
    for figure in next(iter(rows.values())):
        print(f"| {figure} | " + " | ".join(row[figure] for row in rows.values()) + " |")


@dataclass
class Side:
    """A service to start, the button that starts live answers (Gradio: None), and where the emotion then stands."""

    command: list[str]
    live_button: str | None
    answer: str


def measure(sides, n_visits, n_onsets):
    """Start the services, visit them in turn (a machine's speed drifts), and return their columns."""
    from playwright.sync_api import sync_playwright

    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        addresses = {name: stack.enter_context(serving(side.command, folder)) for name, side in sides.items()}
        playwright = stack.enter_context(sync_playwright())
        microphone = write_microphone(folder / "microphone.wav")
        browser = playwright.chromium.launch(
            executable_path=os.environ.get("CHROMIUM") or shutil.which("chromium"),
            chromium_sandbox=os.geteuid() != 0,
            args=[
                "--use-fake-device-for-media-stream",
                "--use-fake-ui-for-media-stream",
                f"--use-file-for-fake-audio-capture={microphone}",
            ],
        )
        visits = {name: [] for name in sides}
        for _ in range(n_visits):
            for name, address in addresses.items():
                visits[name].append(visit(browser, address))
        delays_ms = {name: listen(browser, addresses[name], side, n_onsets) for name, side in sides.items()}
        browser.close()
    return {name: column(visits[name], delays_ms[name]) for name in sides}


@contextmanager
def serving(command, folder):
    """Run a service and yield its address, which it prints."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GRADIO_ANALYTICS_ENABLED": "False"}
    with (folder / "log").open("ab") as log:
        service = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, env=environment, cwd=folder)
    try:
        yield next(match[0] for line in service.stdout if (match := re.search(r"http://\S+", line.decode())))
    finally:
        service.send_signal(signal.SIGTERM)
        service.wait(20)
        service.stdout.close()


def column(visits, delays_ms):
    """Return figures as the table shows them."""

    def median(name):
        return statistics.median(figures[name] for figures in visits)

    hosts = f" ({', '.join(visits[0]['hosts'])})" if visits[0]["hosts"] else ""
    return {
        "bytes transferred": f"{median('bytes') / 1000:,.0f} kB",
        "requests": f"{median('requests'):.0f}",
        "requests to other hosts": f"{median('foreign'):.0f}{hosts}",
        "first contentful paint": f"{median('paint_ms'):.0f} ms",
        "last file there after": f"{median('idle_ms'):.0f} ms",
        "voice to emotion on the screen": f"{statistics.median(delays_ms):.0f} ms "
        f"({min(delays_ms):.0f} to {max(delays_ms):.0f})",
        "axe-core findings": visits[0]["axe"],
    }


def write_microphone(path):
    """Silence and a voice, in turn, as a file."""
    import numpy as np
    import soundfile
    import soxr

    waveform, sample_rate = soundfile.read(DEMO / "loud-fast.wav", dtype="float32")
    voice = soxr.resample(0.6 * waveform / np.abs(waveform).max(), sample_rate, 48_000)
    voice = voice[np.flatnonzero(np.abs(voice) > 0.05)[0] :]
    soundfile.write(path, np.concatenate([np.zeros(int(SILENCE_S * 48_000)), voice]), 48_000, subtype="PCM_16")
    return path


def visit(browser, address):
    """One cold visit: what was transferred, how soon something was seen, what axe-core finds."""
    from axe_playwright_python.sync_playwright import Axe

    context = browser.new_context(viewport={"width": 1280, "height": 900}, service_workers="block")
    page = context.new_page()
    sizes, urls = [], []
    client = context.new_cdp_session(page)
    client.send("Network.enable")
    client.on("Network.loadingFinished", lambda event: sizes.append(event["encodedDataLength"]))
    page.on("request", lambda request: urls.append(request.url))
    host = urlsplit(address).netloc
    context.route(lambda url: urlsplit(url).netloc != host, lambda route: route.abort())  # as without a network
    page.goto(address, wait_until="domcontentloaded")
    settle(page, sizes)
    idle_ms = page.evaluate("performance.getEntriesByType('resource').reduce((t, e) => Math.max(t, e.responseEnd), 0)")
    paint_ms = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0]?.startTime")
    hosts = {urlsplit(url).netloc for url in urls if url.startswith("http")} - {host}
    violations = Axe().run(page).response["violations"]
    found = Counter(violation["impact"] for violation in violations)
    figures = {
        "bytes": sum(sizes),
        "requests": sum(url.startswith("http") for url in urls),
        "foreign": sum(urlsplit(url).netloc in hosts for url in urls),
        "hosts": sorted(hosts),
        "paint_ms": paint_ms,
        "idle_ms": idle_ms,
        "axe": ", ".join(
            f"{found[impact]} {impact}" for impact in ("critical", "serious", "moderate", "minor") if found[impact]
        )
        or "none",
    }
    context.close()
    return figures


def settle(page, finished):
    """Wait until nothing has arrived for a second; some pages keep a connection open for ever."""
    before = -1
    while len(finished) != before:
        before = len(finished)
        page.wait_for_timeout(1000)


def listen(browser, address, side, n_onsets):
    """Milliseconds from each onset of the voice to the first emotion that is shown after it."""
    context = browser.new_context(permissions=["microphone"], viewport={"width": 1280, "height": 900})
    context.add_init_script(f"({WATCH % side.answer})()")
    page = context.new_page()
    page.goto(address, wait_until="domcontentloaded")
    settle(page, [])
    if side.live_button:
        page.click(side.live_button)
    else:
        page.get_by_role("tab", name="Live").click()
        page.get_by_role("button", name="Record").click()
    delays = []
    for _ in range(int(20 * n_onsets)):
        page.wait_for_timeout(1000)
        onsets, answers = page.evaluate("[window.onsets, window.answers]")
        delays = []
        for onset in onsets[1:]:  # the first may fall into the start
            later = [at for at, words in answers if at > onset and words not in ("", "quiet", "listening", "Quiet")]
            delays += [later[0] - onset] if later and later[0] - onset < 1000 * SILENCE_S else []
        if len(delays) >= n_onsets:
            break
    context.close()
    if not delays:
        raise SystemExit(f"{address} never showed an emotion; its last words were {answers[-5:]}, onsets {onsets}")
    return delays[:n_onsets]


def serve_gradio():
    """Gradio's page for the same tasks, mounted on a FastAPI application as its documentation says."""
    import socket

    import gradio
    import uvicorn
    from fastapi import FastAPI

    import undertone
    from undertone.stream import Stream

    recognizer = undertone.load_model(threads=1)

    def predict(path, _model):
        return recognizer.predict(path).probs if path else None

    def hear(stream, piece):
        sample_rate, chunk = piece
        stream = stream or Stream(recognizer, sample_rate=sample_rate, hop_s=HOP_S)
        updates = stream.feed(chunk if chunk.ndim == 1 else chunk.mean(axis=1).astype(chunk.dtype))
        if not updates:
            return stream, gradio.skip()
        return stream, {"quiet": 1.0} if updates[-1].level_db < QUIET_DB else updates[-1].probs

    with gradio.Blocks(title="undertone") as page:
        gradio.Markdown(
            "# undertone\nHear how something is said. It learned from actors; decide nothing about anybody by it."
        )
        model = gradio.Dropdown(["undertone-small"], label="Model")
        with gradio.Tab("A file"):
            upload = gradio.Audio(sources=["upload", "microphone"], type="filepath", label="Recording")
            upload.change(predict, [upload, model], gradio.Label(label="Emotion"))
        with gradio.Tab("Live"):
            microphone = gradio.Audio(sources=["microphone"], streaming=True, label="Microphone")
            state, label = gradio.State(), gradio.Label(label="Emotion", elem_id="answer")
            microphone.stream(
                hear, [state, microphone], [state, label], stream_every=HOP_S, time_limit=600, show_progress="hidden"
            )
    app = gradio.mount_gradio_app(FastAPI(), page, path="")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(f"http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
        uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listener])


if __name__ == "__main__":
    main()
