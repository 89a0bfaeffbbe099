#!/usr/bin/env python3
"""CKKS with big integers and nothing else: known answers for `src/known_answers.rs`.

    python3 big_integers.py > big_integers.json

Python 3 only. It shares no code and no algorithm with the library: polynomials modulo X^n + 1 are multiplied as one large
integer each (Kronecker substitution), there is no residue number system before the bytes are written, roots of unity are
192-bit fixed-point numbers from half-angle formulas, and slots are sums over all coefficients.

Set `toy10_boot`, level 1: n = 1024, Q = q_0 q_1. Words are summed up as sum of (2 i + 1) word_i modulo 2^64, over the residues
modulo q_0 and then those modulo q_1, in coefficient order.
"""
import base64, json, math, random

n, slots = 1024, 512
# k in p = 2 k n + 1: the base, and the lower of the two slots-to-coefficients primes.
q0, q1 = 2 * 549717709092 * n + 1, 2 * 536870894 * n + 1
Q = q0 * q1
# Part of the byte format: the roots whose powers stored polynomials are evaluated at (`Ring::psi`).
PSI = (488986247537179, 750379224530)
LOG2_SCALE = 40
BITS = 192
ONE = 1 << BITS
rng = random.Random(20261124)


# Fixed-point roots of unity of order 2n, from cos(pi / 2) = 0 by halving the angle.
def roots():
    cos, order = 0, 4
    while order < 2 * n:
        cos = math.isqrt((ONE + cos) * ONE // 2)
        order *= 2
    sin = math.isqrt(ONE * ONE - cos * cos)
    table, c, s = [], ONE, 0
    for _ in range(2 * n):
        table.append((c, s))
        c, s = (c * cos - s * sin) >> BITS, (c * sin + s * cos) >> BITS
    return table


ROOT = roots()


def encode(values, scale):
    """round(scale * 2/n * sum over j of Re(z_j conj(zeta^(5^j k)))) for every k; values are pairs of fractions of 2^10."""
    out = []
    for k in range(n):
        total, power = 0, 1
        for re, im in values:
            c, s = ROOT[power * k % (2 * n)]
            total += re * c + im * s
            power = power * 5 % (2 * n)
        numerator = total * scale * 2
        denominator = n * ONE * 1024
        out.append((2 * numerator + denominator) // (2 * denominator))
    return out


def multiply(a, b, modulus):
    width = 2 * modulus.bit_length() + 12
    pack = lambda p: sum((x % modulus) << (width * i) for i, x in enumerate(p))
    product, mask = pack(a) * pack(b), (1 << width) - 1
    c = [(product >> (width * i)) & mask for i in range(2 * n)]
    return [(c[i] - c[i + n]) % modulus for i in range(n)]


def centred(p, modulus):
    return [x - modulus if 2 * x > modulus else x for x in (y % modulus for y in p)]


def nearest(p, divisor, modulus):
    return [(2 * x + divisor) // (2 * divisor) for x in centred(p, modulus)]


def automorphism(p, g):
    out = [0] * n
    for i, x in enumerate(p):
        j = i * g % (2 * n)
        out[j % n] = x if j < n else -x
    return out


def check(p, moduli):
    words = [x % q for q in moduli for x in p]
    return str(sum((2 * i + 1) * w for i, w in enumerate(words)) % (1 << 64))


add = lambda *ps: [sum(xs) % Q for xs in zip(*ps)]
sub = lambda a, b: [(x - y) % Q for x, y in zip(a, b)]
# Slots as integers over 1024, by a formula that the test repeats.
x_slots = [((37 * j + 11) % 2048 - 1024, (91 * j + 5) % 2048 - 1024) for j in range(slots)]
y_slots = [((53 * j + 7) % 2048 - 1024, (29 * j + 3) % 2048 - 1024) for j in range(slots)]
mx, my = encode(x_slots, 1 << LOG2_SCALE), encode(y_slots, 1 << LOG2_SCALE)
secret = [rng.choice((-1, 0, 1)) for _ in range(n)]


def encrypt(message):
    a = [rng.randrange(Q) for _ in range(n)]
    error = [round(rng.gauss(0, 3.2)) for _ in range(n)]
    return add(sub(error, multiply(a, secret, Q)), message), a, [m + e for m, e in zip(message, error)]


x0, x1, x_noisy = encrypt(mx)
y0, y1, y_noisy = encrypt(my)
d0, d1, d2 = multiply(x0, y0, Q), add(multiply(x0, y1, Q), multiply(x1, y0, Q)), multiply(x1, y1, Q)
s2 = multiply(secret, secret, Q)
product = centred(add(d0, multiply(d1, secret, Q), multiply(d2, s2, Q)), Q)
assert product == centred(multiply(x_noisy, y_noisy, Q), Q)
r0, r1 = nearest(x0, q1, Q), nearest(x1, q1, Q)
rescaled = centred([a + b for a, b in zip(r0, multiply(r1, secret, q0))], q0)
rotated = automorphism(x_noisy, 5)


def transform(p):
    """What is stored: the values at psi^(2 brv(i) + 1), by definition."""
    rows = []
    for q, psi in ((q0, PSI[0]), (q1, PSI[1])):
        assert pow(psi, n, q) == q - 1
        powers = [1]
        for _ in range(2 * n - 1):
            powers.append(powers[-1] * psi % q)
        row = []
        for i in range(n):
            e = 2 * int(format(i, "010b")[::-1], 2) + 1
            row.append(sum((x % q) * powers[e * k % (2 * n)] for k, x in enumerate(p)) % q)
        rows.append((q, row))
    return rows


def pack_rows(rows):
    """Residues modulo q_0, then q_1, each at the bit length of its prime, least significant bit first."""
    out = b""
    for q, row in rows:
        width, total = q.bit_length(), 0
        for i, x in enumerate(row):
            total |= x << (width * i)
        out += total.to_bytes(width * n // 8, "little")
    return out


print(json.dumps({
    "made_by": "crates/ckks/tests/testdata/big_integers.py",
    "set": "toy10_boot", "level": 1, "log2_scale": LOG2_SCALE,
    "x_coefficients": mx,
    "y_check": check(my, (q0, q1)),
    "secret": "".join("-0+"[s + 1] for s in secret),
    "x0": base64.b64encode(pack_rows(transform(x0))).decode(),
    "x1": base64.b64encode(pack_rows(transform(x1))).decode(),
    "y0": base64.b64encode(pack_rows(transform(y0))).decode(),
    "y1": base64.b64encode(pack_rows(transform(y1))).decode(),
    "x_decrypted_check": check(x_noisy, (q0, q1)),
    "x_decrypted_head": x_noisy[:8],
    "product_checks": [check(d, (q0, q1)) for d in (d0, d1, d2)],
    "product_decrypted_check": check(product, (q0, q1)),
    "rescaled_checks": [check(r, (q0,)) for r in (r0, r1)],
    "rescaled_decrypted_head": rescaled[:8],
    "rotated_check": check(rotated, (q0, q1)),
}, indent=1))
