"""The browser's server at 131,072 latents: latency of pages, searches and lists, pages a second on one core, start.

A synthetic database is written in the real on-disk format by the real writer: as many examples, activations,
neighbours, labels and vocabulary entries as a real build has, their contents random. The server runs as its own process
on one core and is asked over HTTP from another; every latent page is a different one. First queries of each kind count.
`--model-run RUN` adds what needs a language model, asked of a real run with features: search by meaning, a text of the
visitor's own, two texts compared. The model is loaded before; the first search by meaning, which reads all labels,
counts.

Ends with status 1 where a limit is missed.
Run: python -m research.speed.browser [--latents 131072] [--folder KEEP] [--model-run RUN] [--out FILE]
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import psutil

from monosemy.config import RunConfig, to_json
from monosemy.features.store.settings import FORMAT, GROUPS, LEVELS, FeatureSettings
from monosemy.features.store.token_texts import packed
from monosemy.features.store.write import write_database
from monosemy.layout import RunFiles
from monosemy.run import machine, versions
from monosemy.saes.config_file import write_config_file
from monosemy.saes.listing import choose_sae
from monosemy.support.files import write_json
from research.records import record_path, write_record

SITE, NAME = "layers.12.resid_post", "topk-l0_64-s0"
T, N_TOKENS, VOCABULARY = 256, 1 << 20, 49_152
N_ACTIVATIONS = 8
"""Firings in a stored context; a real build of SmolLM2 has about this many."""
SERVER = "import sys; from monosemy.app.server import run_browse; run_browse(sys.argv[1:])"
LIMITS = {"page": 50.0, "search": 100.0, "token": 100.0, "list": 50.0}
"""Milliseconds at the 95th percentile."""
PAGES_PER_SECOND = 500
START_SECONDS = 2.0


def write_synthetic_run(folder: Path, m: int, seed: int = 0) -> int:
    """A run with one SAE of m latents and its feature database; returns the database's bytes."""
    random = np.random.default_rng(seed)
    write_json(RunFiles(folder).run_json, {"format": 1, "config": to_json(RunConfig()), "provenance": {}})
    config = {"architecture": "topk", "d_in": 576, "d_sae": m, "l0": 64.0, "seed": 0, "site": SITE}
    write_config_file(RunFiles(folder).sae(SITE, NAME).folder, config, weights_sha256="")
    words = _words(random)
    columns = _columns(random, m)
    arrays = {**_numbers(random, m), **_examples(random, m), **_texts(random, m, words)}
    arrays["columns"] = np.stack(list(columns.values()))
    info = {
        "format": FORMAT,
        "site": SITE,
        "name": NAME,
        "d_sae": m,
        "n_tokens": N_TOKENS,
        "n_contexts": N_TOKENS // T,
        "context_length": T,
        "columns": list(columns),
        "label_columns": [n for n in columns if "auroc" in n],
        "text_sha256": "synthetic",
        "n_examples": len(arrays["example_token"]),
    }
    documents = [(i, "english", f"article {i}") for i in range(4096)]
    target = RunFiles(folder).features(SITE, NAME).folder
    write_database(target, info, arrays, list(_labels(random, m, words)), documents=documents)
    return sum(path.stat().st_size for path in target.iterdir())


def _words(random: np.random.Generator) -> list[str]:
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    words = {"".join(random.choice(letters, random.integers(3, 9))) for _ in range(2 * VOCABULARY)}
    return list(random.permutation(sorted(words))[:VOCABULARY])


def _columns(random: np.random.Generator, m: int) -> dict[str, np.ndarray]:
    fired = np.floor(10 ** random.uniform(-0.5, 5, m))
    columns = {
        "n_fired": fired,
        "firing_rate": fired / N_TOKENS,
        "min": 0.01 + random.random(m),
        "max": 1 + 20 * random.random(m),
    }
    rest = (
        "mean first_share last_share mean_position token_entropy n_windows top_cosine top_coactivation top_logit "
        "label_auroc label_auroc_low label_auroc_high hidden_auroc top_token_auroc label_n"
    )
    columns |= {name: random.random(m) for name in rest.split()}
    for name in ("mean", "label_auroc"):
        columns[name][fired == 0] = np.nan
    return {name: values.astype(np.float32) for name, values in columns.items()}


def _numbers(random: np.random.Generator, m: int) -> dict[str, np.ndarray]:
    own = FeatureSettings()
    k, n_out = own.n_neighbours, own.n_output_tokens
    return {
        "histogram": random.integers(0, 1000, (m, own.n_bins), np.uint32),
        "quantiles": np.sort(random.random((m, len(LEVELS)), np.float32), axis=1),
        "positions": random.integers(0, 1000, (m, own.n_position_buckets), np.uint32),
        "neighbours": random.integers(0, m, (m, 2, k), np.int32),
        "neighbour_values": np.sort(random.random((m, 2, k), np.float32), axis=2)[:, :, ::-1],
        "output_ids": random.integers(0, VOCABULARY, (m, 2, n_out), np.int32),
        "output_values": random.standard_normal((m, 2, n_out), np.float32),
        "sketches": random.integers(-127, 127, (m, own.n_sketch), np.int8),
    }


def _examples(random: np.random.Generator, m: int) -> dict[str, np.ndarray]:
    own = FeatureSettings()
    sizes = [own.n_top, *[own.n_per_quantile] * 5, own.n_near_miss, own.n_random]
    groups = np.repeat(np.arange(len(GROUPS), dtype=np.uint8), sizes)
    n = m * len(groups)
    gaps = random.integers(1, T // N_ACTIVATIONS, (n, N_ACTIVATIONS), np.uint8)
    return {
        "example_offsets": np.arange(0, n + 1, len(groups), dtype=np.uint32),
        "example_token": random.integers(0, N_TOKENS, n, np.uint32),
        "example_group": np.tile(groups, m),
        "example_activation_offsets": np.arange(0, n * N_ACTIVATIONS + 1, N_ACTIVATIONS, dtype=np.uint32),
        "example_position": np.cumsum(gaps, axis=1, dtype=np.uint8).reshape(-1),
        "example_activation": random.random(n * N_ACTIVATIONS, np.float32).astype(np.float16),
    }


def _texts(random: np.random.Generator, m: int, words: list[str]) -> dict[str, np.ndarray]:
    # half of the words after a space; one token in a hundred is a lone byte of a longer character
    tokens = [b"\xe2" if i % 100 == 99 else (" " * (i % 2) + word).encode() for i, word in enumerate(words)]
    data, offsets = packed(tokens)
    per_token = m * FeatureSettings().n_index_tokens // VOCABULARY
    score = np.sort(random.random((VOCABULARY, per_token), np.float32), axis=1)[:, ::-1]
    starts = np.arange(4096, dtype=np.int64)
    return {
        "tokens": random.zipf(1.3, N_TOKENS).clip(1, VOCABULARY).astype(np.uint16).reshape(-1, T) - 1,
        "kept": np.full(N_TOKENS // 8, 255, np.uint8),
        "documents": np.stack([starts * (N_TOKENS // 4096), starts], axis=1),
        "index_offsets": np.arange(0, VOCABULARY * per_token + 1, per_token, dtype=np.int64),
        "index_latent": random.integers(0, m, VOCABULARY * per_token, np.int32),
        "index_score": score.reshape(-1).astype(np.float16),
        "vocabulary_data": data,
        "vocabulary_offsets": offsets,
        "vocabulary_special": np.arange(VOCABULARY) == VOCABULARY - 1,
    }


def _labels(random: np.random.Generator, m: int, words: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """As a build writes them: a few words each, frequent words in many labels."""
    drawn = (random.zipf(1.2, (m, 5)).clip(1, VOCABULARY) - 1).tolist()
    for row in drawn:
        a, b, c, d, e = (words[i] for i in row)
        tokens = [[i, 5.0] for i in row]
        yield (
            f"“{a}”, “{b}” after “{c}”; raises “{d}”",
            {"hints": [e], "peak_tokens": tokens, "before_tokens": tokens[:2]},
        )


class Client:
    """One kept-alive connection that reads whole answers as fast as Python can."""

    def __init__(self, port: int) -> None:
        self.host = f"127.0.0.1:{port}"
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def get(self, address: str) -> bytes:
        return self.ask("GET", address, b"")

    def ask(self, method: str, address: str, body: bytes) -> bytes:
        """The answer to a request; a body is JSON."""
        kind = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n" if body else ""
        self.socket.sendall(f"{method} {address} HTTP/1.1\r\nHost: {self.host}\r\n{kind}\r\n".encode() + body)
        head, _, body = self._until_head().partition(b"\r\n\r\n")
        status = head.split(b" ", 2)[1]
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        parts, got = [body], len(body)
        while got < length:
            parts.append(self.socket.recv(1 << 20))
            got += len(parts[-1])
        if status != b"200":
            raise RuntimeError(f"{address}: {status.decode()} {b''.join(parts)[:300]!r}")
        return b"".join(parts)

    def _until_head(self) -> bytes:
        read = b""
        while b"\r\n\r\n" not in read:
            if not (part := self.socket.recv(1 << 20)):
                raise ConnectionError("the server closed the connection")
            read += part
        return read


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def start_server(folder: Path, core: int | None) -> tuple[subprocess.Popen[bytes], int, float]:
    """The process, its port, and the seconds until it answered /api/run."""
    port = free_port()
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(folder), "--port", str(port), "--no-open"],
        stdout=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    )
    if core is not None:
        os.sched_setaffinity(process.pid, {core})
    while True:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
            connection.request("GET", "/api/run")
            json.load(connection.getresponse())
            return process, port, time.perf_counter() - started
        except OSError:
            if process.poll() is not None:
                raise RuntimeError("the server ended at its start") from None
            time.sleep(0.01)


def latencies(client: Client, addresses: list[str], bodies: list[Any] | None = None) -> dict[str, Any]:
    """Milliseconds over the addresses in turn, first ones included, and the mean size of an answer. With `bodies`, one
    for each address, they are posted."""
    times, sizes = [], []
    for i, address in enumerate(addresses):
        body = json.dumps(bodies[i]).encode() if bodies else b""
        started = time.perf_counter()
        sizes.append(len(client.ask("POST" if bodies else "GET", address, body)))
        times.append(1000 * (time.perf_counter() - started))
    ranked = sorted(times)
    quantile = {f"p{q}": ranked[min(len(ranked) - 1, len(ranked) * q // 100)] for q in (50, 95, 99)}
    return {**quantile, "max": ranked[-1], "n": len(times), "kib": statistics.mean(sizes) / 1024}


def pages_per_second(port: int, make: Callable[[], str], seconds: float, n_clients: int = 2) -> float:
    """Requests answered per second by connections that ask without pause."""
    counts = [0] * n_clients
    end = time.perf_counter() + seconds

    def ask(number: int) -> None:
        client = Client(port)
        while time.perf_counter() < end:
            client.get(make())
            counts[number] += 1

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(n_clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / seconds


def cpu_seconds(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return times.user + times.system


def queries(random: np.random.Generator, m: int, n: int) -> dict[str, list[str]]:
    words = _words(np.random.default_rng(0))
    base = f"/api/f/{SITE}/{NAME}"

    def word() -> str:
        return words[min(int(random.zipf(1.2)), VOCABULARY) - 1]

    def listing() -> str:
        sort = random.choice(["firing_rate", "max", "label_auroc", "latent", "top_cosine", "n_fired"])
        low = round(float(10 ** random.uniform(-6, -2)), 8)
        bounds = random.choice(
            ["", f"&min_firing_rate={low}", f"&min_firing_rate={low}&max_label_auroc=0.7", "&max_n_fired=0"]
        )
        order, offset = random.choice(["asc", "desc"]), random.integers(500)
        return f"{base}/latents?sort={sort}&order={order}&limit=100&offset={offset}{bounds}"

    return {
        "page": [f"{base}/latent/{random.integers(m)}" for _ in range(n)],
        "whole contexts": [f"{base}/latent/{random.integers(m)}?window=0" for _ in range(n)],
        "search": [f"{base}/search?q={quote(word()[: random.integers(2, 9)])}" for _ in range(n)],
        "token": [f"{base}/token?text={quote(word())}" for _ in range(n)],
        "list": [listing() for _ in range(n)],
        "list with words": [f"{listing()}&q={quote(word())}" for _ in range(n)],
        "columns": [f"{base}/columns?names=firing_rate,mean,max" for _ in range(20)],
    }


def measure(folder: Path, m: int, n: int, seconds: float) -> dict[str, Any]:
    cores = sorted(os.sched_getaffinity(0))
    starts = []
    for _ in range(3):
        process, port, start = start_server(folder, None)
        starts.append(start)
        process.terminate()
        process.wait()
    process, port, _ = start_server(folder, cores[0])
    if len(cores) > 1:
        os.sched_setaffinity(0, set(cores[1:]))
    try:
        random, client = np.random.default_rng(1), Client(port)
        milliseconds = {name: latencies(client, paths) for name, paths in queries(random, m, n).items()}
        base = f"/api/f/{SITE}/{NAME}/latent/"
        before = cpu_seconds(process.pid)
        rate = pages_per_second(port, lambda: f"{base}{random.integers(m)}", seconds)
        cost = 1000 * (cpu_seconds(process.pid) - before) / (rate * seconds)
    finally:
        os.sched_setaffinity(0, set(cores))
        process.terminate()
        process.wait()
    return {
        "cold_start_seconds": statistics.median(starts),
        "milliseconds": milliseconds,
        "pages_per_second": rate,
        "server_milliseconds_per_page": cost,
    }


CONCEPTS = ("gender", "anger", "bracket", "nation", "money", "music", "illness", "weather", "law", "food")
SENTENCES = tuple(
    f"The committee met in {month}. A {paper} was read aloud, and in the evening they decided about the new library."
    for month, paper in (("May", "letter"), ("June", "poem"), ("July", "law"), ("August", "list"), ("March", "song"))
)


def model_milliseconds(run: Path, n: int) -> dict[str, Any]:
    """Latencies of what needs the language model, on the SAE with which a real run's pages open; `n` of each kind."""
    sae = choose_sae(run)
    base = f"/api/f/{sae.site}/{sae.name}"
    process, port, _ = start_server(run, None)
    try:
        client = Client(port)
        client.ask("POST", "/api/model/load", b"{}")
        while json.loads(client.get("/api/model"))["state"] == "loading":
            time.sleep(0.2)
        bodies = {
            "meaning": [{"q": CONCEPTS[i % len(CONCEPTS)]} for i in range(n)],
            "text": [{"text": SENTENCES[i % len(SENTENCES)]} for i in range(n)],
            "text-difference": [
                {"text": SENTENCES[i % len(SENTENCES)], "other": SENTENCES[(i + 1) % len(SENTENCES)]} for i in range(n)
            ],
        }
        return {name: latencies(client, [f"{base}/{name}"] * n, body) for name, body in bodies.items()}
    finally:
        process.terminate()
        process.wait()


def missed(results: dict[str, Any]) -> list[str]:
    """A line for each limit that was not kept."""
    lines = [
        f"{name}: {results['milliseconds'][name]['p95']:.1f} ms at the 95th percentile, limit {limit:g}"
        for name, limit in LIMITS.items()
        if results["milliseconds"][name]["p95"] > limit
    ]
    if results["pages_per_second"] < PAGES_PER_SECOND:
        lines.append(f"{results['pages_per_second']:.0f} latent pages a second, at least {PAGES_PER_SECOND} are wanted")
    if results["cold_start_seconds"] > START_SECONDS:
        lines.append(f"cold start {results['cold_start_seconds']:.2f} s, limit {START_SECONDS:g}")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latents", type=int, default=131_072)
    parser.add_argument("--requests", type=int, default=300, help="of each kind")
    parser.add_argument("--seconds", type=float, default=8.0, help="of asking for pages without pause")
    parser.add_argument("--folder", type=Path, help="keep the synthetic run here, and use it when it is there")
    parser.add_argument("--model-run", type=Path, help="a run with features, for what needs the language model")
    parser.add_argument("--out", type=Path, default=record_path("speed", "browser"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary) / "run"
        if not RunFiles(folder).run_json.exists():
            write_synthetic_run(folder, arguments.latents)
        size = sum(path.stat().st_size for path in RunFiles(folder).features(SITE, NAME).folder.iterdir())
        results = measure(folder, arguments.latents, arguments.requests, arguments.seconds)
    if arguments.model_run:
        results["milliseconds"] |= model_milliseconds(arguments.model_run, arguments.requests // 10)
    print(f"{arguments.latents:,} latents, {size / 2**20:.0f} MiB; cold start {results['cold_start_seconds']:.2f} s")
    for name, row in results["milliseconds"].items():
        limit = f"  limit {LIMITS[name]:g}" if name in LIMITS else ""
        times = "  ".join(f"{key} {row[key]:7.2f}" for key in ("p50", "p95", "max"))
        print(f"{name:16s} {times} ms  {row['kib']:7.1f} KiB{limit}")
    print(
        f"{results['pages_per_second']:.0f} latent pages a second on one core (at least {PAGES_PER_SECOND}), "
        f"{results['server_milliseconds_per_page']:.2f} ms of the server's time each"
    )
    limits = {
        "limits_ms": LIMITS,
        "least_pages_per_second": PAGES_PER_SECOND,
        "limit_start_seconds": START_SECONDS,
    }
    circumstances = {"machine": machine(), "versions": versions(), "latents": arguments.latents, "bytes": size}
    write_record(arguments.out, circumstances | results | limits)
    if lines := missed(results):
        sys.exit("missed: " + "; ".join(lines))


if __name__ == "__main__":
    main()
