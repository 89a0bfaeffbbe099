#!/usr/bin/env python3
"""Writes ring.json: known answers of the ring, by definition-level arithmetic on Python integers.

Independent of the Rust code: direct evaluation instead of a fast transform, whole integers instead of residues.
Run `python3 ring.py > ring.json`. The only convention taken from elsewhere is which root of unity is psi:
the chain of Tonelli-Shanks square roots of -1 with the least non-residue, which the transform library uses too.
"""
import json

STATE = 1


def rand(bound):
    """A 64-bit LCG (Knuth's MMIX constants), good enough for test vectors."""
    global STATE
    STATE = (STATE * 6364136223846793005 + 1442695040888963407) % 2**64
    high = STATE >> 32
    STATE = (STATE * 6364136223846793005 + 1442695040888963407) % 2**64
    return ((high << 32) | (STATE >> 32)) % bound


def is_prime(n):
    return n > 1 and all(pow(b, n - 1, n) == 1 for b in (2, 3, 5, 7, 11, 13, 17)) and all(
        n % d for d in range(2, 2000) if d < n)


def primes_below(bound, n, count):
    p = (bound - 1) // (2 * n) * 2 * n + 1
    found = []
    while len(found) < count:
        if p < bound and is_prime(p):
            found.append(p)
        p -= 2 * n
    return found


def sqrt_mod(a, p):
    q, s = p - 1, 0
    while q % 2 == 0:
        q, s = q // 2, s + 1
    z = 2
    while pow(z, (p - 1) // 2, p) != p - 1:
        z += 1
    m, c, t, r = s, pow(z, q, p), pow(a, q, p), pow(a, (q + 1) // 2, p)
    while t != 1:
        i, u = 0, t
        while u != 1:
            u, i = u * u % p, i + 1
        b = pow(c, 2 ** (m - i - 1), p)
        m, c = i, b * b % p
        t, r = t * c % p, r * b % p
    return r


def psi_of(p, n):
    root = p - 1
    order = 2
    while order < 2 * n:
        root, order = sqrt_mod(root, p), 2 * order
    assert pow(root, n, p) == p - 1
    return root


def brv(i, n):
    bits = n.bit_length() - 1
    return int(format(i, "b").zfill(bits)[::-1], 2)


def ntt(a, p, n):
    psi = psi_of(p, n)
    return [sum(c * pow(psi, j * (2 * brv(i, n) + 1), p) for j, c in enumerate(a)) % p for i in range(n)]


def negacyclic(a, b, n):
    out = [0] * n
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            out[(i + j) % n] += x * y if i + j < n else -x * y
    return out


def image(a, g, n):
    out = [0] * n
    for i, x in enumerate(a):
        e = i * g % (2 * n)
        out[e % n] = x if e < n else -x
    return out


def product(values):
    out = 1
    for v in values:
        out *= v
    return out


def rows(a, primes, n):
    return [ntt([c % p for c in a], p, n) for p in primes]


def centred(a, p):
    a %= p
    return a - p if a > p // 2 else a


def transforms():
    cases = []
    for n in (16, 32):
        for p in primes_below(2**28, n, 1) + primes_below(2**40, n, 1) + primes_below(2**50, n, 2):
            a = [0, p - 1] + [rand(p) for _ in range(n - 2)]
            b = [p - 1] * n
            g = 5
            quarter = [rand(p) for _ in range(n // 4)]
            spread = [quarter[i // 4] if i % 4 == 0 else 0 for i in range(n)]
            cases.append({
                "n": n, "p": p, "psi": psi_of(p, n),
                "a": a, "ntt": ntt(a, p, n),
                "b": b, "product": [c % p for c in negacyclic(a, b, n)],
                "galois": g, "image": [c % p for c in image(a, g, n)],
                "conjugate": [c % p for c in image(a, 2 * n - 1, n)],
                "x^5*a": [c % p for c in negacyclic([0] * 5 + [1] + [0] * (n - 6), a, n)],
                "subring": quarter, "subring_ntt": ntt(spread, p, n),
            })
    return cases


def conversions():
    """Rescale, digits and division by P of whole integers, as NTT rows."""
    n = 16
    q = primes_below(2**50, n, 2) + primes_below(2**40, n, 2) + primes_below(2**28, n, 1)
    p = primes_below(2**49, n, 3)
    digits = [2, 3]
    big_q, big_p = product(q), product(p)

    x = [0, 1, big_q - 1, big_q // 2, big_q // 2 + 1, q[-1] // 2, q[-1] // 2 + 1] + [rand(2**64) ** 4 % big_q for _ in range(9)]
    rescaled = [(c + (q[-1] - 1) // 2) // q[-1] for c in x]

    decomposed, start = [], 0
    for size in digits:
        own = q[start:start + size]
        d = product(own)
        # The integer that all limbs of the digit agree on: centred inputs, no correction by the multiple of d.
        lifted = [sum(centred(c * pow(d // o, -1, o), o) * (d // o) for o in own) for c in x]
        decomposed.append(rows(lifted, q + p, n))
        start += size

    y = [0, 1, big_q * big_p - 1, big_p // 2, big_p // 2 + 1, big_p - 1, 3 * big_p] + [
        rand(2**64) ** 7 % (big_q * big_p) for _ in range(9)]
    divided = [(c + big_p // 2) // big_p for c in y]
    return {
        "n": n, "q": q, "p": p, "digits": digits,
        "x": rows(x, q, n), "rescaled": rows(rescaled, q[:-1], n), "decomposed": decomposed,
        "y": rows(y, q + p, n), "mod_down": rows(divided, q, n),
    }


text = json.dumps({"made_by": "crates/ring/tests/testdata/ring.py", "transforms": transforms(), "conversions": conversions()})
print(text.replace('"transforms"', '\n"transforms"').replace('}, {"n"', '},\n{"n"').replace('"conversions"', '\n"conversions"'))
