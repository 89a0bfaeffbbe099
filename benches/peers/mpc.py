"""Operators of two-party frameworks, two processes over loopback, as JSON lines. `scripts/mpc-peers` makes the environments and runs it.

    python mpc.py spu|crypten [--runs 3]

Both share weights as well as inputs and take their correlations from a trusted first party, whose bytes they do not count. SPU's protocol is
SEMI2K with its option that divides once a row; its messages are no rounds, but bound them. CrypTen's bytes are halved: it counts
both directions.
"""

import argparse
import json
import multiprocessing
import re
import socket
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

TOKENS, WIDTH, HEADS, HIDDEN, EPS = 65, 256, 4, 512, 0.125


def inputs() -> dict[str, list[np.ndarray]]:
    """Arguments by operator, of the shapes that `cipherform mpc operators` has."""
    rng = np.random.default_rng(0)
    draw = lambda *shape: rng.standard_normal(shape).astype(np.float32)
    scores = 1.5 * draw(HEADS, TOKENS, TOKENS)
    return {
        "matmul 256^3, both shared": [draw(256, 256), draw(256, 256)],
        "ReLU 65x512": [draw(TOKENS, HIDDEN)],
        "GELU 65x512": [draw(TOKENS, HIDDEN)],
        "softmax, exact maximum 4x65x65": [scores],
        "ReLU-softmax 4x65x65": [scores],
        "LayerNorm 65x256": [draw(TOKENS, WIDTH)],
    }


def oracle(name: str, args: list[np.ndarray]) -> np.ndarray:
    """The function in f64."""
    x = args[0].astype(np.float64)
    if name.startswith("matmul"):
        return x @ args[1].astype(np.float64)
    if name.startswith("ReLU-"):
        positive = np.maximum(x, 0)
        return positive / (positive.sum(-1, keepdims=True) + EPS)
    if name.startswith("ReLU"):
        return np.maximum(x, 0)
    if name.startswith("GELU"):
        return 0.5 * x * (1 + np.vectorize(__import__("math").erf)(x / np.sqrt(2)))
    if name.startswith("softmax"):
        e = np.exp(x - x.max(-1, keepdims=True))
        return e / e.sum(-1, keepdims=True)
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)


def error_of(name: str, got: np.ndarray) -> float:
    return float(np.abs(got - oracle(name, inputs()[name])).max())


def row(framework: str, name: str, seconds: list[float], sent: int, rounds: int, error: float) -> None:
    print(json.dumps({"framework": framework, "name": name, "ms": 1e3 * statistics.median(seconds), "sent": sent, "rounds": rounds,
                      "error": error}), flush=True)


# SPU


def spu_function(name: str):
    import jax
    import jax.numpy as jnp

    if name.startswith("matmul"):
        return lambda x, y: x @ y
    if name.startswith("ReLU-"):
        return lambda x: jnp.maximum(x, 0) / (jnp.maximum(x, 0).sum(-1, keepdims=True) + EPS)
    if name.startswith("ReLU"):
        return lambda x: jnp.maximum(x, 0)
    if name.startswith("GELU"):
        return lambda x: jax.nn.gelu(x, approximate=True)
    if name.startswith("softmax"):
        return lambda x: jax.nn.softmax(x, axis=-1)

    def layer_norm(x):
        centred = x - x.mean(-1, keepdims=True)
        return centred * jax.lax.rsqrt((centred * centred).mean(-1, keepdims=True) + 1e-5)

    return layer_norm


def spu_config():
    from spu import libspu

    config = libspu.RuntimeConfig(protocol=libspu.ProtocolKind.SEMI2K, field=libspu.FieldType.FM64, fxp_fraction_bits=18)
    config.enable_pphlo_profile = True  # prints what the link has sent
    return config


def spu_party(rank: int, addresses: list[str], jobs: list, runs: int, log: str, results) -> None:
    import os

    file = os.open(log, os.O_CREAT | os.O_WRONLY)
    os.dup2(file, 1), os.dup2(file, 2)
    from spu import api, libspu

    options = libspu.logging.LogOptions()
    options.enable_console_logger = True
    libspu.logging.setup_logging(options)
    party = libspu.link.Desc()
    for i, address in enumerate(addresses):
        party.add_party(f"party{i}", address)
    runtime = api.Runtime(libspu.link.create_brpc(party, rank), spu_config())
    for name, program, shares in jobs:
        executable = libspu.Executable()
        executable.ParseFromString(program)
        for variable, (meta, chunks) in zip(executable.input_names, shares[rank]):
            share = libspu.Share()
            share.meta, share.share_chunks = meta, chunks
            runtime.set_var(variable, share)
        seconds = []
        for run in range(runs + 1):
            print(f"run {run} of {name}", flush=True)
            start = time.perf_counter()
            runtime.run(executable)
            seconds.append(time.perf_counter() - start)
        out = runtime.get_var(executable.output_names[0])
        results.put((rank, name, seconds[1:], (out.meta, out.share_chunks)))


def spu(runs: int) -> None:
    from spu import api, libspu
    from spu.utils import frontend

    io, jobs = api.Io(2, spu_config()), []
    options = libspu.CompilerOptions()
    options.enable_optimize_denominator_with_broadcast = True
    secret = libspu.Visibility.VIS_SECRET
    for name, args in inputs().items():
        names = [f"in{i}" for i in range(len(args))]
        program, _ = frontend.compile(frontend.Kind.JAX, spu_function(name), args, {}, names, [secret] * len(args),
                                      lambda out: [f"out{i}" for i in range(len(out))], copts=options)
        shares = [io.make_shares(x, secret) for x in args]
        jobs.append((name, program.SerializeToString(), [[(s[rank].meta, s[rank].share_chunks) for s in shares] for rank in (0, 1)]))
    sockets = [socket.socket() for _ in (0, 1)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    addresses = [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]
    for each in sockets:
        each.close()
    context = multiprocessing.get_context("spawn")
    results, folder = context.Queue(), Path(tempfile.mkdtemp())
    parties = [context.Process(target=spu_party, args=(rank, addresses, jobs, runs, str(folder / str(rank)), results)) for rank in (0, 1)]
    for party in parties:
        party.start()
    got: dict[str, dict] = {}
    for _ in range(2 * len(jobs)):
        rank, name, seconds, out = results.get(timeout=600)
        got.setdefault(name, {})[rank] = (seconds, out)
    for party in parties:
        party.join()
    sent = re.compile(r"total send bytes (\d+), recv bytes \d+, send actions (\d+)")
    for name, by_rank in got.items():
        counts = []
        for rank in (0, 1):
            text = (folder / str(rank)).read_text(errors="replace")
            counts.append(sent.search(text.split(f"run {runs} of {name}\n")[1]))
        shares = []
        for rank in (0, 1):
            share = libspu.Share()
            share.meta, share.share_chunks = by_rank[rank][1]
            shares.append(share)
        slower = [max(pair) for pair in zip(by_rank[0][0], by_rank[1][0])]
        largest = max(int(c[1]) for c in counts)
        row("SPU", name, slower, largest, max(int(c[2]) for c in counts), error_of(name, np.asarray(io.reconstruct(shares))))


# CrypTen


def crypten_function(name: str):
    if name.startswith("matmul"):
        return lambda x, y: x.matmul(y)
    if name.startswith("ReLU-"):

        def relu_softmax(x):
            positive = x.relu()
            return positive * (positive.sum(-1, keepdim=True) + EPS).reciprocal()

        return relu_softmax
    if name.startswith("ReLU"):
        return lambda x: x.relu()
    if name.startswith("GELU"):
        # Its erf is a Taylor series that diverges from 3 on.
        return lambda x: x * (((x + x * x * x * 0.044715) * 0.7978845608028654).tanh() + 1) * 0.5
    if name.startswith("softmax"):
        return lambda x: x.softmax(-1)

    def layer_norm(x):
        centred = x - x.mean(-1, keepdim=True)
        return centred * (centred.square().mean(-1, keepdim=True) + 1e-5).inv_sqrt()

    return layer_norm


def crypten_party(runs: int) -> list:
    import crypten
    import torch
    from crypten.config import cfg

    cfg.communicator.verbose = True
    crypten.init()
    torch.set_num_threads(1)
    link, rows = crypten.communicator.get(), []
    for name, args in inputs().items():
        shared = [crypten.cryptensor(torch.tensor(x.tolist()), src=0) for x in args]
        seconds = []
        for _ in range(runs + 1):
            link.reset_communication_stats()
            start = time.perf_counter()
            out = crypten_function(name)(*shared)
            seconds.append(time.perf_counter() - start)
        counts = (link.comm_bytes // 2, link.comm_rounds)
        error = error_of(name, np.asarray(out.get_plain_text().tolist()))  # large results would stop the launcher
        rows.append((name, seconds[1:], counts, error))
    return rows


def crypten(runs: int) -> None:
    import crypten.mpc

    parties = crypten.mpc.run_multiprocess(world_size=2)(crypten_party)(runs)
    if parties is None:
        raise SystemExit("CrypTen's parties failed")
    for (name, seconds, (sent, rounds), error), other in zip(*parties):
        row("CrypTen", name, [max(pair) for pair in zip(seconds, other[1])], sent, rounds, error)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("framework", choices=["spu", "crypten"])
    parser.add_argument("--runs", type=int, default=3, help="timed ones, after one that warms up; the median counts")
    options = parser.parse_args()
    {"spu": spu, "crypten": crypten}[options.framework](options.runs)


if __name__ == "__main__":
    main()
