#!/usr/bin/env python3
"""Known answers by Lattigo 6.2 for `src/known_answers.rs`.

    pip download --no-deps orion-fhe && python3 -m zipfile -e orion_fhe-*.whl orion
    python3 lattigo.py orion/orion/backend/lattigo/lattigo-linux.so > lattigo.json

Uses the shared library inside the wheel (Lattigo v6.2; Apache-2.0 and MIT). N = 2^11, moduli of 55 + 6 x 45 bits, two special
primes of 55 bits, scale 2^45: far more precise than the 32-bit floats through which the library hands out slots.

The interface shows raw words of one kind of object only, the encoded diagonals of a linear map (in Montgomery form, after
the number-theoretic transform, at the scale of a prime); they are turned back into coefficients here.
"""
import ctypes as C, json, sys

lib = C.CDLL(sys.argv[1])


class Array(C.Structure):
    _fields_ = [("data", C.c_void_p), ("length", C.c_ulong)]


lib.Encode.argtypes = [C.POINTER(C.c_float), C.c_int, C.c_int, C.c_ulong]
for name in ("Decode", "GetModuliChain", "SerializeDiagonal", "GetLinearTransformRotationKeys"):
    getattr(lib, name).restype = Array
lib.GenerateLinearTransform.argtypes = [
    C.POINTER(C.c_int), C.c_int, C.POINTER(C.c_float), C.c_int, C.c_int, C.c_float, C.c_char_p]
for name in ("GenerateChebyshev", "GenerateMonomial"):
    getattr(lib, name).argtypes = [C.POINTER(C.c_float), C.c_int]
lib.EvaluatePolynomial.argtypes = [C.c_int, C.c_int, C.c_ulong]
ints = lambda values: (C.c_int * len(values))(*values)
floats = lambda values: (C.c_float * len(values))(*values)

LOG_N, TOP = 11, 6
n, slots = 1 << LOG_N, 1 << (LOG_N - 1)
q_bits, p_bits = [55] + [45] * TOP, [55, 55]
lib.NewScheme(LOG_N, ints(q_bits), len(q_bits), ints(p_bits), len(p_bits), 45, 2 * n // 3, b"standard", b"", b"none")
lib.NewKeyGenerator()
lib.GenerateSecretKey()
lib.GeneratePublicKey()
lib.GenerateRelinearizationKey()
lib.GenerateEvaluationKeys()
lib.NewEncoder()
lib.NewEncryptor()
lib.NewDecryptor()
lib.NewEvaluator()
lib.NewPolynomialEvaluator()
lib.NewLinearTransformEvaluator()
array = lib.GetModuliChain()
moduli = [C.cast(array.data, C.POINTER(C.c_ulong))[i] for i in range(array.length)]

# Multiples of 2^-10: exact in 32 bits. The test repeats the formulas.
x = [((37 * j + 11) % 2048 - 1024) / 1024 for j in range(slots)]
y = [((53 * j + 7) % 2048 - 1024) / 1024 for j in range(slots)]
diagonals = {0: x, 1: y, 5: [((29 * j + 3) % 2048 - 1024) / 1024 for j in range(slots)]}
chebyshev = [0.25, -0.5, 0.125, 0.375, -0.25, 0.0625, 0.1875, -0.125]
monomial = [0.5, 0.25, -0.75, 0.5, 0.125, -0.375]


def diagonal_coefficients(level):
    """Integer coefficients of the encoding of diagonal 0, and its scale."""
    keys = sorted(diagonals)
    flat = [v for key in keys for v in diagonals[key]]
    transform = lib.GenerateLinearTransform(ints(keys), len(keys), floats(flat), len(flat), level, 0.3, b"none")
    array = lib.SerializeDiagonal(transform, 0)
    blob = C.string_at(array.data, array.length)
    q = moduli[0]
    # Rows are n words after a length word each; the first row is that modulo the first prime.
    head = (n).to_bytes(8, "little")
    start = blob.index(head) + 8
    row = [int.from_bytes(blob[start + 8 * i:start + 8 * i + 8], "little") for i in range(n)]
    assert all(word < q for word in row)
    unmontgomery = pow(1 << 64, -1, q)
    row = [word * unmontgomery % q for word in row]
    # row[i] is the value at psi^(2 brv(i) + 1) for a psi that is not handed out: with another root the coefficients come
    # out permuted with signs, because x -> x^k permutes the roots. The right one gives back the slots.
    natural = [0] * n
    for i, word in enumerate(row):
        natural[int(format(i, f"0{LOG_N}b")[::-1], 2)] = word
    exponent = (q - 1) // (2 * n)
    psi = next(r for r in (pow(h, exponent, q) for h in range(2, 1000)) if pow(r, n, q) == q - 1)
    inverse = pow(psi, -1, q)
    coefficients = cyclic(natural, pow(inverse, 2, q), q)
    scaling = pow(n, -1, q)
    coefficients = [c * scaling * pow(inverse, k, q) % q for k, c in enumerate(coefficients)]
    coefficients = [c - q if 2 * c > q else c for c in coefficients]
    # psi' = psi^g moves coefficient k to k / g: the right g is the one for which slot 0, the value at exp(i pi / n), is x_0.
    import cmath
    roots = [cmath.exp(1j * cmath.pi * k / n) for k in range(2 * n)]
    for g in range(1, 2 * n, 2):
        slot = sum(c * roots[g * k % (2 * n)] for k, c in enumerate(coefficients))
        if abs(slot / moduli[level] - x[0]) < 1e-6:
            second = sum(c * roots[5 * g * k % (2 * n)] for k, c in enumerate(coefficients))
            if abs(second / moduli[level] - x[1]) < 1e-6:
                break
    else:
        raise SystemExit("no root of unity fits")
    out = [0] * n
    for k, c in enumerate(coefficients):
        j = g * k % (2 * n)
        out[j % n] = c if j < n else -c
    return out, moduli[level]


def cyclic(values, root, q):
    """sum over i of values[i] root^(i k) for every k, recursively."""
    if len(values) == 1:
        return values
    even, odd = cyclic(values[::2], root * root % q, q), cyclic(values[1::2], root * root % q, q)
    out, power, half = [0] * len(values), 1, len(values) // 2
    for k in range(half):
        t = power * odd[k] % q
        out[k], out[k + half] = (even[k] + t) % q, (even[k] - t) % q
        power = power * root % q
    return out


def encrypt(values, level=TOP):
    return lib.Encrypt(lib.Encode(floats(values), slots, level, 1 << 45))


def decrypt(ciphertext, count=128):
    array = lib.Decode(lib.Decrypt(ciphertext))
    values = C.cast(array.data, C.POINTER(C.c_float))
    return [values[i] for i in range(count)]


def linear():
    keys = sorted(diagonals)
    flat = [v for key in keys for v in diagonals[key]]
    transform = lib.GenerateLinearTransform(ints(keys), len(keys), floats(flat), len(flat), TOP, 0.3, b"none")
    elements = lib.GetLinearTransformRotationKeys(transform)
    for i in range(elements.length):
        lib.GenerateLinearTransformRotationKey(C.cast(elements.data, C.POINTER(C.c_int))[i])
    return lib.Rescale(lib.EvaluateLinearTransform(transform, encrypt(x)))


def polynomial(make, coefficients):
    poly = make(floats(coefficients), len(coefficients))
    return lib.EvaluatePolynomial(encrypt(x), poly, 1 << 45)


coefficients, scale = diagonal_coefficients(1)
cx, cy = encrypt(x), encrypt(y)
rotated = lib.RotateNew(cx, 3)
back = lib.RotateNew(cx, slots - 7)
product = lib.Rescale(lib.MulRelinCiphertextNew(cx, cy))
print(json.dumps({
    "made_by": "crates/ckks/tests/testdata/lattigo.py, Lattigo 6.2 in orion-fhe 1.0.2",
    "log_n": LOG_N, "encoding": {"scale": scale, "coefficients": coefficients},
    "chebyshev_coefficients": chebyshev, "monomial_coefficients": monomial,
    "slots": {
        "product": decrypt(product),
        "rotate_3": decrypt(rotated),
        "rotate_minus_7": decrypt(back),
        "linear_map": decrypt(linear()),
        "chebyshev": decrypt(polynomial(lib.GenerateChebyshev, chebyshev)),
        "monomial": decrypt(polynomial(lib.GenerateMonomial, monomial)),
    },
}))
