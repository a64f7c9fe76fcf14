"""How long the latent explorer takes from choosing a latent to seeing it.

    python tests/benchmarks/explorer_latency.py --out reports/results/explorer.json

1,024 latents of 100,000 bins, 27 of them active per bin; 120 units; a position, and an event in
1,000 trials of eight kinds. Two measures, over latents drawn at random, none twice: in the kernel,
from setting the list to the last picture sent; in JupyterLab in headless Chromium, from the
choice in the list to the last of its pictures decoded. Wall-clock time grows with whatever else
the machine does: processor time, its load and the pace of a fixed loop stand beside it.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from saebook.evaluation import Variable
from saebook.evaluation.profiles import LatentColumns, LatentProfiles, Spiking
from saebook.widgets import LatentExplorer

HERE = Path(__file__).resolve().parent
N_BINS, N_LATENTS, N_UNITS, WIDTH_S = 100_000, 1024, 120, 0.05
N_CHANGES = 60
LAP, TRIAL, N_KINDS, N_STEPS = 1500, 100, 8, 15
WATCH = """() => {
    window.pictures = 0;
    document.querySelector('.saebook-table select').addEventListener('change', () => {
        window.chosen = performance.now(); window.pictures = 0;
    }, true);
    new MutationObserver(changes => {
        for (const change of changes) for (const node of change.addedNodes)
            for (const image of node.tagName === 'IMG' ? [node]
                    : node.querySelectorAll?.('img') ?? [])
                image.decode().then(() => {
                    window.pictures += 1; window.took = performance.now() - window.chosen;
                });
    }).observe(document.querySelector('.saebook-panel').parentElement,
        {childList: true, subtree: true});
}"""


def latents() -> Iterator[np.ndarray]:
    """Each latent has a place on a lap at which it is active more often."""
    rng = np.random.default_rng(0)
    place = rng.integers(0, LAP, N_LATENTS)
    for start in range(0, N_BINS, 4096):
        at = np.arange(start, min(start + 4096, N_BINS)) % LAP
        apart = np.abs((at[:, None] - place + LAP // 2) % LAP - LAP // 2)
        share = 0.02 + 0.1 * np.exp(-((apart / 60) ** 2))
        shape = (len(at), N_LATENTS)
        strength = rng.gamma(2.0, 1.0, shape)
        yield ((rng.random(shape) < share) * strength).astype(np.float32)


def explorer() -> LatentExplorer:
    """The explorer that is measured."""
    rng, at = np.random.default_rng(1), np.arange(N_BINS)
    place = at % LAP / LAP
    position = Variable(
        "position", "continuous", place, (place * 12).astype(int), (np.arange(12) + 0.5) / 12, "m"
    )
    since = at % TRIAL * WIDTH_S - 0.5 + WIDTH_S / 2
    step = np.floor((since + 0.5) / 0.1).astype(int)
    inside = step < N_STEPS
    kind = at // TRIAL % N_KINDS
    centres = -0.5 + (np.arange(N_STEPS) + 0.5) * 0.1
    go = Variable(
        "go_time, by direction", "event", np.where(inside, since, np.nan),
        np.where(inside, kind * N_STEPS + step, -1), centres, "s", tuple("ABCDEFGH"),
    )  # fmt: skip
    known = pd.DataFrame(
        {
            "variable": rng.choice([position.name, go.name], N_LATENTS),
            "score_test": rng.random(N_LATENTS),
            "p": rng.random(N_LATENTS),
            "q": rng.random(N_LATENTS),
            "discovered": rng.random(N_LATENTS) < 0.3,
        },
        index=pd.RangeIndex(N_LATENTS, name="latent"),
    )
    counts = rng.poisson(0.3, (N_BINS, N_UNITS)).astype(np.uint8)
    time_s = at * WIDTH_S
    spiking = Spiking(
        [str(unit) for unit in range(N_UNITS)],
        ["CA1" if unit < 70 else "CA3" for unit in range(N_UNITS)],
        counts=counts, time=time_s, bin_size_s=WIDTH_S,
    )  # fmt: skip
    decoder = rng.normal(size=(N_LATENTS, N_UNITS)).astype(np.float32)
    columns = LatentColumns(latents())
    return LatentExplorer(
        LatentProfiles(
            columns, time_s, WIDTH_S, [position, go], spiking, decoder, shown="bins", table=known
        )
    )


def in_kernel() -> dict[str, Any]:
    """Wall-clock and processor time of a change, ms, without any browser."""
    view = explorer()
    view.widget()
    wall, cpu = [], []
    for latent in np.random.default_rng(2).permutation(N_LATENTS)[: N_CHANGES + 5].tolist():
        begin, used = time.perf_counter(), time.process_time()
        view._controls.list.value = latent
        wall.append(1000 * (time.perf_counter() - begin))
        cpu.append(1000 * (time.process_time() - used))
        assert view.latent == latent
    columns = view.profiles.columns
    return {
        "wall_ms": spread(wall[5:]),
        "cpu_ms": spread(cpu[5:]),
        "latents_mb": round(columns.nbytes / 1e6, 1),
        "latents_dense_mb": round(4 * N_BINS * N_LATENTS / 1e6, 1),
        "peak_memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


def in_browser(screenshot: Path | None) -> dict[str, Any]:
    """Time from the choice in the list to the last picture decoded, ms, in JupyterLab."""
    import nbformat
    from playwright.sync_api import sync_playwright

    sys.path.insert(0, str(HERE.parent / "fixtures"))
    from jupyter_lab import run_notebook, running_lab  # pyright: ignore[reportMissingImports]

    work = Path(tempfile.mkdtemp())
    (work / "notebooks").mkdir()
    code = f"import sys\nsys.path.insert(0, {str(HERE)!r})\nfrom explorer_latency import explorer\nexplorer()"
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = nbformat.v4.new_notebook(metadata={"kernelspec": kernel})
    notebook.cells = [nbformat.v4.new_code_cell(code)]
    nbformat.write(notebook, work / "notebooks" / "explorer.ipynb")
    took: list[float] = []
    with sync_playwright() as playwright, running_lab(work, work / "notebooks") as address:
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=["--no-sandbox"]
        )
        page = browser.new_page(viewport={"width": 1400, "height": 1100})
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        found = run_notebook(page, address, "explorer.ipynb")
        assert not found["errors"], found["errors"]
        page.keyboard.press("Control+b")
        rows = page.locator(".saebook-table select")
        rows.wait_for()
        page.evaluate(WATCH)
        for row in np.random.default_rng(3).permutation(N_LATENTS)[: N_CHANGES + 5].tolist():
            rows.select_option(index=row)
            page.wait_for_function("window.pictures >= 6", timeout=30_000)
            took.append(page.evaluate("window.took"))
            # What the page still does afterwards is nobody's waiting time.
            page.wait_for_timeout(100)
        if screenshot is not None:
            page.screenshot(path=screenshot)
        assert not errors, errors
        browser.close()
    return {"wall_ms": spread(took[5:])}


def spread(values: list[float]) -> dict[str, float]:
    """Median and quantiles, rounded."""
    low, high = np.quantile(values, [0.1, 0.9])
    return {
        "median": round(statistics.median(values), 1),
        "p10": round(float(low), 1),
        "p90": round(float(high), 1),
        "n": len(values),
    }


def pace() -> float:
    """Processor seconds of a fixed loop: 0.3 to 0.5 on an idle core of these years."""
    begin, total = time.process_time(), 0
    for i in range(10_000_000):
        total += i
    return round(time.process_time() - begin, 2)


def main() -> None:
    """Measure, print, and keep what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--screenshot", type=Path)
    parser.add_argument("--no-browser", action="store_true")
    options = parser.parse_args()
    before = {"load": os.getloadavg()[0], "loop_s": pace()}
    result: dict[str, Any] = {"kernel": in_kernel()}
    if not options.no_browser:
        result["browser"] = in_browser(options.screenshot)
    result |= {
        "setting": {
            "bins": N_BINS, "latents": N_LATENTS, "units": N_UNITS, "bin_size_s": WIDTH_S,
            "pictures": 6,
        },
        "machine": {
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            "before": before,
            "after": {"load": os.getloadavg()[0], "loop_s": pace()},
        },
        "date": datetime.date.today().isoformat(),
        "command": "python tests/benchmarks/explorer_latency.py --out reports/results/explorer.json",
    }  # fmt: skip
    text = json.dumps(result, indent=1) + "\n"
    print(text)
    if options.out is not None:
        partial = options.out.with_suffix(".partial")
        partial.write_text(text)
        partial.replace(options.out)


if __name__ == "__main__":
    main()
